"""Unfinished files: files that are being added under the image root.

While a process adds a file, it keeps a locked mark in `.incoming` (flock(2)), until the file's image is committed. The
lock ends with the process, however that ends. So an unlocked mark shows what a killed process has left.
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
"""Names of the directories that files are added in: random UUIDs."""
_OLD_SECONDS = 86400.0
"""After this long without a write, the writer is gone, on whichever machine it ran."""
_TRIES = 100


def new_location(file_name: str) -> str:
    """Return a new location under the root for a file."""
    return f"{uuid.uuid4().hex}/{file_name}"


def is_brought(location: str) -> bool:
    """Return whether a path under the root is that of a file that we added."""
    directory, *name = PurePosixPath(location).parts or ("",)
    return len(name) == 1 and _BROUGHT.fullmatch(directory) is not None


def is_ours(location: str) -> bool:
    """Return whether only we write to a path under the root: an added file, or one on its way."""
    directory = next(iter(PurePosixPath(location).parts), "")
    return directory == DIRECTORY or _BROUGHT.fullmatch(directory) is not None


class _Mark:
    """A new file, empty and locked. Deleted at the end of the context, unless `kept` is set."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / DIRECTORY / f"{name}{this_boot()}"
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
    """A new file's place under the root, in a directory of its own. Use as a context manager.

    If the context ends with an error, the file is deleted unless an image has it.
    """

    def __init__(self, root: Path, file_name: str, has_file: Callable[[str], bool]) -> None:
        """`has_file` returns whether an image has its file at a location."""
        self.location = new_location(file_name)
        self.committing = False
        """Set this before the image is committed: from then on, an error does not show whether it was."""
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
        """End the arrival. `keep`: keep the file, because an image has it."""
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
            # The next start checks again (`discard_abandoned`).
            self._mark.kept = True
            return
        discard(self._root, self.location)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def fetching(root: Path, image_id: int, token: int) -> AbstractContextManager[Path]:
    """Return a context manager for the file that a worker fetches an image into; `token` is its fencing token.

    The file is its own mark. It is moved away once it is complete, or deleted at the end of the context.
    """
    return _Mark(root, f"{image_id}-{token}")


def bring_in(root: Path, file: Path, location: str) -> None:
    """Move a complete file to its new location under the root."""
    path = root / location
    path.parent.mkdir(mode=0o750)
    file.rename(path)


def discard_fetched(root: Path, image_id: int, token: int) -> None:
    """Delete what holders of earlier fencing tokens have left. A late caller deletes nothing of later holders."""
    for file in (root / DIRECTORY).glob(f"{image_id}-*"):
        if int(file.name.partition(".")[0].rpartition("-")[2]) < token:
            file.unlink(missing_ok=True)


def discard(root: Path, location: str) -> None:
    """Delete a file that we added under the root.

    Ignores missing files and those that an operator keeps there.
    """
    if is_brought(location):
        directory, name = PurePosixPath(location).parts
        try:
            _delete_file(root, directory, name)
        except OSError as error:
            logger.warning("a file that is no longer needed cannot be deleted: %s: %s", location, error)


def discard_abandoned(root: Path, has_file: Callable[[str], bool]) -> None:
    """Delete what killed processes have left. `has_file` returns whether an image has its file at a location.

    Leaves locked files, which are being written. Also leaves, for a day, files from another machine or from before this
    machine's last boot: not every file system shows the locks of other machines. Logs what cannot be deleted.
    """
    for mark in sorted((root / DIRECTORY).glob("*")):
        try:
            with contextlib.suppress(FileNotFoundError):
                _discard_if_abandoned(root, mark, has_file)
        except OSError as error:
            logger.warning("the leftovers of an interrupted upload cannot be deleted: %s: %s", mark, error.strerror)


def _discard_if_abandoned(root: Path, mark: Path, has_file: Callable[[str], bool]) -> None:
    descriptor = os.open(mark, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        name = mark.name.partition(".")[0]
        files = list((root / name).glob("*")) if _BROUGHT.fullmatch(name) else []
        if not is_abandoned(descriptor, mark.name, lambda: max(each.lstat().st_mtime for each in (mark, *files))):
            return
        for file in files:
            if not has_file(f"{name}/{file.name}"):
                _delete_file(root, name, file.name)
        if not files and _BROUGHT.fullmatch(name):
            with contextlib.suppress(OSError):
                (root / name).rmdir()
        mark.unlink(missing_ok=True)
        logger.info("deleted the leftovers of an interrupted upload: %s", mark.name)
    finally:
        os.close(descriptor)


def is_abandoned(descriptor: int, name: str, written: Callable[[], float]) -> bool:
    """Lock what a process marks its files with, and return whether that process is gone.

    `name` ends with `this_boot()` of the process. `written` returns when its files were last written to.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen = bool(this_boot()) and name.endswith(this_boot())
    except BlockingIOError:
        return False
    except OSError:
        seen = False  # a file system without locks
    return seen or time.time() - written() >= _OLD_SECONDS


def _locked(path: Path) -> int:
    """Create a file, lock it, and return its descriptor."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A search for abandoned files may have found the file before it was locked, and deleted it.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise PublisherError(f"{path} is deleted as soon as it is created")


@cache
def this_boot() -> str:
    """Return a suffix that identifies this boot of this machine: only its processes surely see each other's locks."""
    try:
        return "." + Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _delete_file(root: Path, directory: str, name: str) -> None:
    """Delete a file and its directory. Never follows a link in place of the directory. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        opened = os.open(root / directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=opened)
        finally:
            os.close(opened)
        (root / directory).rmdir()
