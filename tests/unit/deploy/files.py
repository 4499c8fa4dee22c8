"""The files that an installation is deployed with."""

from __future__ import annotations

import re
from pathlib import Path

from publisher.core.configuration import unknown

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "deploy"

AWAITED = {
    *("PUBLISHER_WORKER_METRICS_PORT", "PUBLISHER_WORKER_METRICS_HOST", "PUBLISHER_METRICS_TOKEN_FILE"),
    "PUBLISHER_FLOWER_URL",
}
"""Of parts that tell their metrics, and of the console."""


def unknown_variables(text: str) -> set[str]:
    """What begins like a setting in a file, and is none."""
    named = set(re.findall(r"\bPUBLISHER_[A-Z0-9_]+\b", text))
    return {each.variable for each in unknown(dict.fromkeys(named, "x"))} - AWAITED
