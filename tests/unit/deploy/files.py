"""The files for deploying an installation."""

from __future__ import annotations

import re
from pathlib import Path

from publisher.core.settings_report import unknown

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "deploy"


def unknown_variables(text: str) -> set[str]:
    """Return the names in a text that begin like settings but are none."""
    named = set(re.findall(r"\bPUBLISHER_[A-Z0-9_]+\b", text))
    return {each.variable for each in unknown(dict.fromkeys(named, "x"))}
