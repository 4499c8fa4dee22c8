"""Processes whose time of day is off."""

import shutil
from pathlib import Path

from tests.servers import missing


def wrong_clock(offset: str) -> dict[str, str]:
    """The environment of a process whose time of day is off; how fast it runs is right."""
    if not shutil.which("faketime"):
        missing("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
