"""Directories that are made for their owner alone, whoever makes them first."""

from __future__ import annotations

from pathlib import Path


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with that mode, unless it is there. What is missing above it is for its owner alone (0700)."""
    for above in reversed(path.absolute().parents):
        if not above.exists():
            above.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)
