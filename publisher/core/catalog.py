"""Registering a generated image: brought under the image root, identified, hashed. Opening its file; deleting it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from publisher.core.disk_format import VIRTUAL_SIZE_MAX, DiskFile, examine
from publisher.core.errors import Conflict, ImageFileError, InvalidRequest
from publisher.core.image import Image, digest, open_under
from publisher.core.store import Store

logger = logging.getLogger(__name__)

_BROUGHT = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")
"""The directories that `_bring_in` makes: random UUIDs."""

_INCOMING = ".incoming"
_INCOMING_SECONDS = 86400.0

_READ_BEFORE_MAX = 1000
_read_before: dict[tuple[int, int, int, int], str] = {}
"""Device, inode, size and time of writing (ns) of files, to their SHA-256."""


def register(
    store: Store,
    image_root: Path,
    file: Path,
    *,
    owner: str,
    appliance_id: int,
    id: int | None = None,
    format: str | None = None,
    name: str | None = None,
    link: bool = False,
    virtual_size_max: int = VIRTUAL_SIZE_MAX,
    on_found: Callable[[DiskFile], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Image:
    """Register `file` as a generated image, and return its row.

    A file under the image root already stays where it is; any other is copied in, or hard-linked with `link`.
    `on_found` gets what the file is, before anything is done with it, and may raise. `on_progress` gets the bytes
    hashed in each step. Raises `InvalidRequest` for a file that is none, is empty, is refused by `examine`, or lies
    outside the root by way of a link, and `Conflict` where the id is taken; the root then is as it was.
    """
    image_root.mkdir(parents=True, exist_ok=True, mode=0o750)
    root = image_root.resolve()
    if not file.is_file():
        raise InvalidRequest("there is no such file", field=str(file))
    if not file.stat().st_size:
        raise InvalidRequest("the file is empty", field=str(file))
    disk = examine(file, wanted_format=format, file_name=file.name, virtual_size_max=virtual_size_max)
    on_found(disk)
    location, brought = _bring_in(root, file, link)
    try:
        return store.images.add(
            owner=owner,
            appliance_id=appliance_id,
            name=name or file.stem,
            format=disk.format,
            disk_format=disk.disk_format,
            virtual_size=disk.virtual_size,
            warning=disk.warning,
            glance_objection=disk.glance_objection,
            digests=digest(root / location, on_progress),
            location=str(location),
            id=id,
        )
    except BaseException:
        if brought:
            (root / location).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                (root / location).parent.rmdir()
        raise


def delete(store: Store, image_root: Path, owner: str, appliance_id: int, id: int | None = None) -> None:
    """Delete an image, or all of an appliance, and those of their files that were brought under the root by us.

    What an operator keeps there stays. Raises what `Images.delete` raises; nothing is deleted then.
    """
    # A crash in between leaves a file that no image has, and never an image without its file.
    for image in store.images.delete(owner, appliance_id, id):
        discard(image_root, image.location)


def discard(image_root: Path, location: str) -> None:
    """Delete a file that was brought under the root by us; what an operator keeps there, and what is not there, is let
    be."""
    directory, *name = PurePosixPath(location).parts or ("",)
    if len(name) == 1 and _BROUGHT.fullmatch(directory):
        try:
            _delete_file(image_root, directory, name[0])
        except OSError as error:
            logger.warning("a file that is no longer needed is left at %s: %s", location, error)


def is_ours(location: str) -> bool:
    """Whether a path under the root is one that only we write to: of a file that was brought in, or is on its way."""
    directory = next(iter(PurePosixPath(location).parts), "")
    return directory == _INCOMING or _BROUGHT.fullmatch(directory) is not None


# What is on its way -----------------------------------------------------------------------------------------------


def incoming(image_root: Path, name: str) -> Path:
    """Where a file is written to until it is complete."""
    directory = image_root / _INCOMING
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    return directory / name


def fetched(image_root: Path, image_id: int, token: int) -> Path:
    """Where the worker with that fencing token writes an image to that it fetches."""
    return incoming(image_root, f"{image_id}-{token}")


def discard_fetched(image_root: Path, image_id: int, token: int) -> None:
    """Delete what the holders of earlier tokens have left. Who comes too late deletes nothing of those after it."""
    for file in (image_root / _INCOMING).glob(f"{image_id}-*"):
        if int(file.name.rpartition("-")[2]) < token:
            file.unlink(missing_ok=True)


def discard_old_incoming(image_root: Path) -> None:
    """Delete what nobody has written to for a day: who did is gone. What cannot be deleted is logged."""
    try:
        for file in list((image_root / _INCOMING).glob("*")):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.lstat().st_mtime > _INCOMING_SECONDS:
                    file.unlink()
    except OSError as error:
        logger.warning("what uploads that broke off have left cannot be deleted: %s", error.strerror)


def bring_in(image_root: Path, file: Path, location: str) -> None:
    """Move a complete file to its place under the root, which no other file has."""
    place = image_root / location
    place.parent.mkdir(mode=0o750)
    file.rename(place)


def new_location(file_name: str) -> str:
    """A place under the root for a file that is brought in."""
    return f"{uuid.uuid4().hex}/{file_name}"


def open_image(image_root: Path, image: Image) -> io.FileIO:
    """The file of an image, opened, and found to hold what was registered. Blocks; reads all of it where need be.

    Raises `Conflict` where the image is not ready, or its file is gone or another one.
    """
    if not image.ready:
        raise Conflict(f"image {image.id} is not ready, but {image.state}; its status tells more")
    changed = Conflict(f"the file of image {image.id} is gone, or was changed; generate the image again")
    try:
        file = io.FileIO(open_under(image_root, image.location))
    except ImageFileError as error:
        logger.error("image %d: %s", image.id, error)
        raise changed from None
    try:
        if not _is_same(file, image):
            raise changed
    except BaseException:
        file.close()
        raise
    return file


def _is_same(file: io.FileIO, image: Image) -> bool:
    found = os.fstat(file.fileno())
    if found.st_size != image.size or found.st_mtime <= (image.registered or 0.0):
        return found.st_size == image.size
    # Written since. Brought back from a backup, it may yet be what it was: read once, until it is written again.
    seen = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    sha256 = _read_before.get(seen) or hashlib.file_digest(file, "sha256").hexdigest()
    if len(_read_before) >= _READ_BEFORE_MAX:
        _read_before.clear()
    _read_before[seen] = sha256
    return sha256 == image.sha256


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


def _bring_in(root: Path, file: Path, link: bool) -> tuple[Path, bool]:
    """The file's path under the root, and whether it was brought there just now."""
    inside = Path(os.path.normpath(file.absolute()))
    if inside.is_relative_to(root):
        if not file.resolve().is_relative_to(root) or file.resolve() != inside:
            raise InvalidRequest("leads out of the image root, or through a link in it", field=str(file))
        return inside.relative_to(root), False
    location = Path(uuid.uuid4().hex) / file.name
    (root / location.parent).mkdir(mode=0o750)
    source = file.resolve()
    if link:
        try:
            os.link(source, root / location)
        except OSError as error:
            (root / location.parent).rmdir()
            raise InvalidRequest(f"cannot be linked into the image root: {error.strerror}", field=str(file)) from None
    else:
        try:
            shutil.copyfile(source, root / location)
        except OSError as error:
            (root / location).unlink(missing_ok=True)
            (root / location.parent).rmdir()
            raise InvalidRequest(f"cannot be copied into the image root: {error.strerror}", field=str(file)) from None
    return location, True
