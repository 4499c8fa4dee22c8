"""What is on its way into the image root.

Whoever brings a file in keeps a mark in `.incoming`, locked (flock(2)), until the file's image is committed. The lock
ends with its process, however that ends: a mark that nobody locks tells of what a killed process has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.directories import make_directory
from publisher.core.errors import PublisherError

logger = logging.getLogger(__name__)

DIRECTORY = ".incoming"
_BROUGHT = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")
"""The directories that files are brought into: random UUIDs."""
_OLD_SECONDS = 86400.0
"""For so long nobody has written to it: whoever did is gone, on whichever machine."""
_TRIES = 100


def new_location(file_name: str) -> str:
    """A place under the root for a file that is brought in."""
    return f"{uuid.uuid4().hex}/{file_name}"


def is_brought(location: str) -> bool:
    """Whether a path under the root is one of a file that was brought in by us."""
    directory, *name = PurePosixPath(location).parts or ("",)
    return len(name) == 1 and _BROUGHT.fullmatch(directory) is not None


def is_ours(location: str) -> bool:
    """Whether a path under the root is one that only we write to: of a file that was brought in, or is on its way."""
    directory = next(iter(PurePosixPath(location).parts), "")
    return directory == DIRECTORY or _BROUGHT.fullmatch(directory) is not None


class _Mark:
    """A new file, empty and locked. Deleted at the end of the context, unless it is to be `kept`."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / DIRECTORY / f"{name}{_this_boot()}"
        self.kept = False

    def __enter__(self) -> Path:
        for directory in (self.path.parent.parent, self.path.parent):
            make_directory(directory, 0o750)
        self._descriptor = _locked(self.path)
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.kept:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)


class Arrival:
    """A new file's place under the root, in a directory of its own. Use as a context: what is there is deleted where it
    ends with an error, unless an image has it."""

    def __init__(self, root: Path, file_name: str, has_file: Callable[[str], bool]) -> None:
        """`has_file` tells whether an image has its file at a location."""
        self.location = new_location(file_name)
        self.committing = False
        """Set before the image is committed: from then on an error does not tell whether it was."""
        self._root = root
        self._has_file = has_file
        self._mark = _Mark(root, PurePosixPath(self.location).parts[0])

    @property
    def path(self) -> Path:
        return self._root / self.location

    def rename(self, file_name: str) -> None:
        before = self.path
        self.location = f"{PurePosixPath(self.location).parts[0]}/{file_name}"
        before.rename(self.path)

    def __enter__(self) -> Self:
        self._mark.__enter__()
        try:
            self.path.parent.mkdir(mode=0o750)
        except BaseException:
            self._mark.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=kind is None)

    def close(self, *, keep: bool) -> None:
        """`keep` the file: it has an image."""
        try:
            if not keep:
                self._undo()
        finally:
            self._mark.__exit__(None, None, None)

    def _undo(self) -> None:
        try:
            if self.committing and self._has_file(self.location):
                return
        except SQLAlchemyError:
            # The next start looks again (`discard_abandoned`).
            self._mark.kept = True
            return
        discard(self._root, self.location)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def fetching(root: Path, image_id: int, token: int) -> AbstractContextManager[Path]:
    """Where the worker with that fencing token writes an image to that it fetches. It is its own mark; moved away once
    it is complete, or deleted at the end of the context."""
    return _Mark(root, f"{image_id}-{token}")


def bring_in(root: Path, file: Path, location: str) -> None:
    """Move a complete file to its place under the root, which no other file has."""
    place = root / location
    place.parent.mkdir(mode=0o750)
    file.rename(place)


def discard_fetched(root: Path, image_id: int, token: int) -> None:
    """Delete what the holders of earlier tokens have left. Who comes too late deletes nothing of those after it."""
    for file in (root / DIRECTORY).glob(f"{image_id}-*"):
        if int(file.name.partition(".")[0].rpartition("-")[2]) < token:
            file.unlink(missing_ok=True)


def discard(root: Path, location: str) -> None:
    """Delete a file that was brought under the root by us; what an operator keeps there, and what is not there, is let
    be."""
    if is_brought(location):
        directory, name = PurePosixPath(location).parts
        try:
            _delete_file(root, directory, name)
        except OSError as error:
            logger.warning("a file that is no longer needed is left at %s: %s", location, error)


def discard_abandoned(root: Path, has_file: Callable[[str], bool]) -> None:
    """Delete what processes that were killed have left. `has_file` tells whether an image has its file at a location.

    What somebody writes is locked, and let be. So is, for a day, what another machine, or this one before it was last
    started, has left: not every file system shows the locks of other machines. What cannot be deleted is logged.
    """
    for mark in sorted((root / DIRECTORY).glob("*")):
        try:
            with contextlib.suppress(FileNotFoundError):
                _discard_if_abandoned(root, mark, has_file)
        except OSError as error:
            logger.warning("what an upload that broke off has left cannot be deleted: %s: %s", mark, error.strerror)


def _discard_if_abandoned(root: Path, mark: Path, has_file: Callable[[str], bool]) -> None:
    descriptor = os.open(mark, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen = bool(_this_boot()) and mark.name.endswith(_this_boot())
        except BlockingIOError:
            return
        except OSError:
            seen = False  # a file system without locks
        name = mark.name.partition(".")[0]
        files = list((root / name).glob("*")) if _BROUGHT.fullmatch(name) else []
        if not seen and time.time() - max(each.lstat().st_mtime for each in (mark, *files)) < _OLD_SECONDS:
            return
        for file in files:
            if not has_file(f"{name}/{file.name}"):
                _delete_file(root, name, file.name)
        if not files and _BROUGHT.fullmatch(name):
            with contextlib.suppress(OSError):
                (root / name).rmdir()
        mark.unlink(missing_ok=True)
        logger.info("deleted what an upload that broke off has left: %s", mark.name)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A new file, opened and locked."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Somebody who looked for what was left may have found it before it was locked, and deleted it.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise PublisherError(f"{path} is deleted by somebody as soon as it is there")


@cache
def _this_boot() -> str:
    """A suffix that tells this start of this machine from all others: among its processes, locks are seen."""
    try:
        return "." + Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _delete_file(root: Path, directory: str, name: str) -> None:
    """Without following a link, as it is opened. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        opened = os.open(root / directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=opened)
        finally:
            os.close(opened)
        (root / directory).rmdir()
