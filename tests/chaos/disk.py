"""A small separate file system for the ticket store. A fault can fill it to the last byte."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.patience import PATIENCE

MIB = 1 << 20


class Disk:
    """Use as a context manager. A directory on its own tmpfs if this user may mount one, otherwise a plain one."""

    def __init__(self, directory: Path, *, mib: int) -> None:
        self.directory = directory
        self._mib = mib
        self.own = False
        """Whether it is a separate file system."""
        self.why_not = ""

    def __enter__(self) -> Self:
        self.directory.mkdir()
        options = f"size={self._mib}m,mode=0755"
        try:
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "chaos", str(self.directory)],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=30 * PATIENCE,
                check=False,
            )
            self.own, self.why_not = mounted.returncode == 0, mounted.stderr.strip()
        except OSError as error:
            self.why_not = str(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.own:
            subprocess.run(["umount", "--lazy", str(self.directory)], timeout=30 * PATIENCE, check=False)  # noqa: S607

    def fill(self) -> None:
        """Fill the disk to the last byte, until `free` is called."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for piece in (MIB, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(b"\0" * piece)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def left(self) -> int:
        """Return the number of free bytes."""
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"
