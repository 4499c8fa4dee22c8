"""The files that an installation is deployed with."""

from __future__ import annotations

import re
from pathlib import Path

from publisher.core.settings_report import unknown

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "deploy"


def unknown_variables(text: str) -> set[str]:
    """What begins like a setting in a file, and is none."""
    named = set(re.findall(r"\bPUBLISHER_[A-Z0-9_]+\b", text))
    return {each.variable for each in unknown(dict.fromkeys(named, "x"))}
