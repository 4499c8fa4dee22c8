"""Processes with a wrong time of day."""

import shutil
from pathlib import Path

from tests.servers import missing


def wrong_clock(offset: str) -> dict[str, str]:
    """Return the environment of a process whose time of day is wrong by `offset` but runs at the right speed."""
    if not shutil.which("faketime"):
        missing("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
