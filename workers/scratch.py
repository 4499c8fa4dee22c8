"""Scratch space: directories for files that a plugin makes of an image before it sends them.

Each directory belongs to one attempt, which keeps it locked (flock(2)). The lock ends with the process, however that
ends. So an unlocked directory shows what a killed worker has left. The directory's name says how many bytes its attempt
has asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from publisher.core.directories import make_directory
from publisher.core.errors import ConfigurationError, Reason, TransientCloudError
from publisher.core.settings import Settings
from publisher.files.unfinished import is_abandoned, this_boot

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{32}-([0-9]+)(\..*)?")
_BLOCK_BYTES = 512
"""Unit of `st_blocks` (stat(2))."""


class Scratch:
    """The scratch space of one attempt. `close` deletes all of it."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.scratch
        self._bytes_max = settings.scratch_bytes_max
        self._free_bytes_min = settings.disk_free_bytes_min
        self._held: list[tuple[Path, int]] = []
        self._closed = False

    def reserve(self, size: int) -> Path:
        """Return a new, empty directory for files of `size` bytes together.

        Raises `ConfigurationError` if this installation never has so much space, and `TransientCloudError` if it has
        not now. The space is counted, not set aside: what else uses the disk may still fill it.
        """
        if size > self._bytes_max:
            raise ConfigurationError(
                f"the image needs {_mib(size)} of scratch space, but PUBLISHER_SCRATCH_BYTES_MAX allows"
                f" {_mib(self._bytes_max)}; ask the operator for more"
            )
        try:
            make_directory(self._root, 0o700)
            if self._missing(size):
                discard_abandoned_scratch(self._root)
            with _locked(self._root):
                if missing := self._missing(size):
                    raise TransientCloudError(
                        f"the image needs {_mib(size)} of scratch space on the worker, {_mib(missing)} more than there"
                        " is now",
                        reason=Reason.CONFIGURATION,
                    )
                return self._new(size)
        except OSError as error:
            raise TransientCloudError(
                f"the worker's scratch space cannot be used: {error.strerror}", reason=Reason.CONFIGURATION
            ) from None

    def close(self) -> None:
        """Delete the directories. Logs what cannot be deleted."""
        self._closed = True
        while self._held:
            _delete(*self._held.pop())

    def _new(self, size: int) -> Path:
        path = self._root / f"{uuid.uuid4().hex}-{size}{this_boot()}"
        path.mkdir(mode=0o700)
        descriptor = _open(path)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._held.append((path, descriptor))
        if self._closed:  # by the attempt, which has abandoned the call that asks
            self.close()
        return path

    def _missing(self, size: int) -> int:
        """Return how many bytes are missing for `size` more. Others may still write what they have asked for."""
        reserved = unwritten = 0
        for path, asked in _directories(self._root):
            reserved += asked
            unwritten += max(asked - _used(path), 0)
        free = shutil.disk_usage(self._root).free - self._free_bytes_min - unwritten
        return max(size - min(free, self._bytes_max - reserved), 0)


def discard_abandoned_scratch(root: Path) -> None:
    """Delete the directories that killed processes have left.

    As for images (`unfinished.discard_abandoned`), those from another machine or from before this machine's last boot
    stay for a day. Logs what cannot be deleted.
    """
    left: list[tuple[Path, int]] = []
    try:
        with _locked(root):
            for path, _ in _directories(root):
                descriptor = _open(path)
                if is_abandoned(descriptor, path.name, partial(_written, path)):
                    left.append((path, descriptor))
                else:
                    os.close(descriptor)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("the scratch space cannot be searched for leftovers: %s: %s", root, error.strerror)
    for path, descriptor in left:
        logger.info("deleting the scratch space of a worker that was killed: %s", path.name)
        _delete(path, descriptor)


def _directories(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield our directories, and how many bytes their attempts have asked for."""
    for path in sorted(root.iterdir()):
        if (named := _NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            yield path, int(named[1])


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes from creating and judging directories at the same time."""
    descriptor = _open(root)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _delete(path: Path, descriptor: int) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("scratch space cannot be deleted: %s: %s", path, error.strerror)
    finally:
        os.close(descriptor)


def _used(directory: Path) -> int:
    """Return how many bytes the files of a directory take on the disk. They may vanish meanwhile."""
    used = 0
    for above, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                used += os.lstat(os.path.join(above, name)).st_blocks * _BLOCK_BYTES  # noqa: PTH118  # of many files
    return used


def _written(directory: Path) -> float:
    """Return when a directory or a file in it was last written to."""
    return max(each.lstat().st_mtime for each in (directory, *directory.rglob("*")))


def _mib(size: int) -> str:
    return f"{max(size, 0) / (1 << 20):.0f} MiB"
