"""Registering a generated image: brought under the image root, identified, hashed. Opening its file; deleting it."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path

from publisher.core.checksums import Checksums, check
from publisher.core.directories import make_directory
from publisher.core.errors import Conflict, ImageFileError, InvalidRequest
from publisher.core.image import Digests, Image, open_under
from publisher.core.names import check_name, safe_name
from publisher.files import unfinished
from publisher.files.compression import HEAD_BYTES, compression_of, unpacked_name
from publisher.files.disk_format import VIRTUAL_SIZE_MAX, DiskFile, examine
from publisher.files.hashing import digest, pieces
from publisher.files.image_writer import UNPACK_LIMITS, ImageWriter, UnpackLimits, clone
from publisher.files.unfinished import Arrival
from publisher.store import Store

logger = logging.getLogger(__name__)

_READ_BEFORE_MAX = 1000
_read_before: dict[tuple[int, ...], str] = {}
"""Device, inode, size, time of writing and time of change (ns) of files, to their SHA-256. Nobody can set the time of
change: it tells apart two files, or contents, that are the same in all else."""


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
    expected: Checksums = (),
    limits: UnpackLimits = UNPACK_LIMITS,
    virtual_size_max: int = VIRTUAL_SIZE_MAX,
    on_found: Callable[[DiskFile], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Image:
    """Register `file` as a generated image, and return its row.

    A file under the image root already stays where it is; any other is copied in, or hard-linked with `link`. A
    compressed one is unpacked into the root, and stays as it is itself. `on_found` gets what the disk file is, before
    it is registered, and may raise. `on_progress` gets the bytes of `file` that were read in each step.

    Raises `InvalidRequest` for a file that is none, is empty, cannot be unpacked, is refused by `examine`, has another
    checksum than `expected`, or lies outside the root by way of a link, and `Conflict` where the id is taken; the root
    then is as it was.
    """
    make_directory(image_root, 0o750)
    root = image_root.resolve()
    if not file.is_file():
        raise InvalidRequest("there is no such file", field=_shown(file))
    with io.FileIO(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as source:
        if not os.fstat(source.fileno()).st_size:
            raise InvalidRequest("the file is empty", field=_shown(file))
        compression = compression_of(os.pread(source.fileno(), HEAD_BYTES, 0))
        file_name = unpacked_name(file.name, compression)
        image_name = check_name(name if name is not None else Path(file_name).stem, "name", trimmed=False)
        kept = _inside(root, file) if _is_under(root, file) else None

        def found(path: Path) -> DiskFile:
            disk = examine(path, wanted_format=format, file_name=file_name, virtual_size_max=virtual_size_max)
            on_found(disk)
            return disk

        def add(disk: DiskFile, digests: Digests, location: str) -> Image:
            return store.images.add(
                owner=owner,
                appliance_id=appliance_id,
                name=image_name,
                format=disk.format,
                disk_format=disk.disk_format,
                virtual_size=disk.virtual_size,
                warning=disk.warning,
                glance_objection=disk.glance_objection,
                digests=digests,
                location=location,
                id=id,
            )

        # What is not compressed is looked at before it is copied, which may take long.
        disk = found(file) if compression is None else None
        if kept is not None and disk is not None:
            digests = digest(file, on_progress)
            check(expected, digests.by_algorithm())
            return add(disk, digests, kept)
        with Arrival(root, safe_name(file_name), store.images.has_file) as arrival:
            digests = _bring_in(source, file, arrival, expected, limits, on_progress, link=link and disk is not None)
            if not digests.size:
                raise InvalidRequest("there is nothing in the file", field=_shown(file))
            disk = disk or found(arrival.path)
            arrival.committing = True
            return add(disk, digests, arrival.location)


def _bring_in(
    source: io.FileIO,
    file: Path,
    arrival: Arrival,
    expected: Checksums,
    limits: UnpackLimits,
    on_progress: Callable[[int], None],
    *,
    link: bool,
) -> Digests:
    """Link, clone, copy or unpack a file into the root, and hash what is there then."""
    try:
        if link:
            os.link(file.resolve(), arrival.path)
        if link or (compression_of(os.pread(source.fileno(), HEAD_BYTES, 0)) is None and clone(source, arrival.path)):
            digests = digest(arrival.path, on_progress)
            check(expected, digests.by_algorithm())
            return digests
        # Copied by reading and writing, and not by copy_file_range(2): it has to be read anyway, to be hashed.
        with ImageWriter(arrival.path, limits, field=_shown(file), expected=expected) as writer:
            for piece in pieces(source):
                writer.write(piece)
                on_progress(len(piece))
            return writer.finish().digests
    except OSError as error:
        how = "linked" if link else "copied"
        raise InvalidRequest(f"cannot be {how} into the image root: {error.strerror}", field=_shown(file)) from None


def _is_under(root: Path, file: Path) -> bool:
    return Path(os.path.normpath(file.absolute())).is_relative_to(root)


def _inside(root: Path, file: Path) -> str:
    """The path under the root of a file that is there. Raises `InvalidRequest`."""
    inside = Path(os.path.normpath(file.absolute()))
    if not file.resolve().is_relative_to(root) or file.resolve() != inside:
        raise InvalidRequest("leads out of the image root, or through a link in it", field=_shown(file))
    location = str(inside.relative_to(root))
    if not location.isprintable():
        raise InvalidRequest("has a name that is not UTF-8 or cannot be shown; rename it", field=_shown(file))
    return location


def _shown(file: Path) -> str:
    """A path as it may be written into a message, whatever its bytes are."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(file))


def delete(store: Store, image_root: Path, owner: str, appliance_id: int, id: int | None = None) -> None:
    """Delete an image, or all of an appliance, and those of their files that were brought under the root by us.

    What an operator keeps there stays. Raises what `Images.delete` raises; nothing is deleted then.
    """
    # A crash in between leaves a file that no image has, and never an image without its file.
    for image in store.images.delete(owner, appliance_id, id):
        unfinished.discard(image_root, image.location)


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
    seen = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    sha256 = _read_before.get(seen) or hashlib.file_digest(file, "sha256").hexdigest()
    if len(_read_before) >= _READ_BEFORE_MAX:
        _read_before.clear()
    _read_before[seen] = sha256
    return sha256 == image.sha256
