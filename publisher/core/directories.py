"""Creation of directories that only their owner may use."""

from __future__ import annotations

from pathlib import Path


def make_directory(path: Path, mode: int) -> None:
    """Create a directory with this mode if it is missing. Missing parents get mode 0700."""
    for above in reversed(path.absolute().parents):
        if not above.exists():
            above.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)
