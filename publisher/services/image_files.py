"""Image files: register them, fetch them again, receive them from callers, open and delete them.

An image that a caller uploads is registered at once. An image that a caller names by its location is fetched by a
worker.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from publisher.core.directories import make_directory
from publisher.core.errors import Conflict, ImageFileError, InvalidRequest
from publisher.core.image import Checksums, Digests, Image, check_checksums, check_format, open_under
from publisher.core.names import check_name, safe_name
from publisher.core.settings import Settings
from publisher.files import unfinished
from publisher.files.compression import HEAD_BYTES, compression_of, unpacked_name, without_suffix
from publisher.files.disk_format import VIRTUAL_SIZE_MAX, DiskFile, examine
from publisher.files.hashing import digest, pieces
from publisher.files.image_writer import UNPACK_LIMITS, ImageWriter, UnpackLimits, clone
from publisher.files.unfinished import Arrival
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.store import Store

if TYPE_CHECKING:
    from publisher.services.wakeups import Wake

logger = logging.getLogger(__name__)

_READ_BEFORE_MAX = 1000
_read_before: dict[tuple[int, ...], str] = {}
"""SHA-256 of files that were read, by device, inode, size, modification time and change time (ns).

Nobody can set the change time, so it distinguishes files, or contents, that are equal in everything else.
"""
_LOCATION = "location"
_DEFAULT_PORTS = {"http": 80, "https": 443}


# A file on this machine -----------------------------------------------------------------------------------------------


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
    """Register `file` as an image.

    A file under the image root stays where it is. Any other file is copied into the root, or hard-linked with `link`.
    A compressed file is unpacked into the root and itself left alone. `on_found` gets the detected disk format before
    the image is registered, and may raise. `on_progress` gets the number of bytes of `file` that each step has read.

    Raises `InvalidRequest` if the file is missing or empty, cannot be unpacked, is refused by `examine`, does not have
    the checksums `expected`, or leads out of the root through a link, and `Conflict` if the id is taken. The root is
    then unchanged.
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
            return _add(store, disk, digests, location, owner=owner, appliance_id=appliance_id, name=image_name, id=id)

        # Copying may take long, so examine an uncompressed file before it.
        disk = found(file) if compression is None else None
        if kept is not None and disk is not None:
            digests = digest(file, on_progress)
            check_checksums(expected, digests.by_algorithm())
            return add(disk, digests, kept)
        with Arrival(root, safe_name(file_name), store.images.has_file) as arrival:
            digests = _bring_in(source, file, arrival, expected, limits, on_progress, link=link and disk is not None)
            if not digests.size:
                raise InvalidRequest("the file contains no data", field=_shown(file))
            disk = disk or found(arrival.path)
            arrival.committing = True
            return add(disk, digests, arrival.location)


def _add(
    store: Store,
    disk: DiskFile,
    digests: Digests,
    location: str,
    *,
    owner: str,
    appliance_id: int,
    name: str,
    id: int | None = None,
) -> Image:
    return store.images.add(
        owner=owner,
        appliance_id=appliance_id,
        name=name,
        format=disk.format,
        disk_format=disk.disk_format,
        virtual_size=disk.virtual_size,
        warning=disk.warning,
        glance_objection=disk.glance_objection,
        digests=digests,
        location=location,
        id=id,
    )


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
    """Link, clone, copy or unpack a file into the root, and hash the result."""
    try:
        if link:
            os.link(file.resolve(), arrival.path)
        if link or (compression_of(os.pread(source.fileno(), HEAD_BYTES, 0)) is None and clone(source, arrival.path)):
            digests = digest(arrival.path, on_progress)
            check_checksums(expected, digests.by_algorithm())
            return digests
        # Not by copy_file_range(2): the file must be read anyway, to hash it.
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
    """Return the path, relative to the root, of a file under it. Raises `InvalidRequest`."""
    inside = Path(os.path.normpath(file.absolute()))
    if not file.resolve().is_relative_to(root) or file.resolve() != inside:
        raise InvalidRequest("leads out of the image root, or through a link in it", field=_shown(file))
    location = str(inside.relative_to(root))
    if not location.isprintable():
        raise InvalidRequest("has a name that is not UTF-8 or cannot be shown; rename it", field=_shown(file))
    return location


def _shown(file: Path) -> str:
    """Return a path as text for a message, whatever bytes it has."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(file))


# A location that a worker fetches from --------------------------------------------------------------------------------


def fetch(
    store: Store,
    settings: Settings,
    *,
    owner: str,
    appliance_id: int,
    location: str,
    name: str = "",
    format: str = "",
    expected: Checksums = (),
    wake: Wake,
) -> Image:
    """Commit an image for a worker to fetch and register, and wake a worker. Raises `InvalidRequest`."""
    source = checked_source(location, settings.images, settings.location_hosts)
    if is_fetched_by_http(source):
        check_named(OutboundPolicy.of(settings), {_LOCATION: source})
    image = store.registrations.begin(
        owner=owner,
        appliance_id=appliance_id,
        name=_image_name(name, source_name(source)),
        wanted_format=check_format(format) if format else None,
        source=source,
        expected=expected,
    )
    wake(image.id)
    return image


def fetch_again(store: Store, owner: str, appliance_id: int, id: int, wake: Wake) -> Image:
    """Have a worker fetch an image again from its source. Raises `NotFound`, `Conflict`."""
    image = store.registrations.again(owner, appliance_id, id)
    wake(image.id)
    return image


def checked_source(location: str, image_root: Path, allowed_hosts: str) -> str:
    """Return a caller's location in the form that is stored: a path relative to the image root, or a URL.

    Raises `InvalidRequest` if it is neither, if it is not allowed here, or if there is no such file.
    """
    location = location.strip()
    if not location or not location.isprintable():
        raise InvalidRequest("is needed: a path under the image root, or a URL", field=_LOCATION)
    if is_remote(location):
        check_remote(location, allowed_hosts)
        return location
    path = PurePosixPath(location)
    if path.is_absolute():
        try:
            path = path.relative_to(PurePosixPath(image_root.resolve()))
        except ValueError:
            raise InvalidRequest("is outside the image root", field=_LOCATION) from None
    # Do not say why: callers must not learn what else is on this machine.
    missing = InvalidRequest("there is no such file under the image root", field=_LOCATION)
    if unfinished.is_ours(str(path)):
        # The file belongs to an image, maybe another user's, and is deleted with it.
        raise missing
    try:
        os.close(open_under(image_root, str(path)))
    except ImageFileError:
        raise missing from None
    return str(path)


def is_remote(source: str) -> bool:
    return "://" in source


def is_fetched_by_http(source: str) -> bool:
    """Return whether a source is fetched from the host in its URL. The operator configures the host of buckets."""
    return is_remote(source) and urlsplit(source).scheme != "s3"


def check_remote(url: str, allowed_hosts: str) -> None:
    """Check that images may be fetched from a URL.

    Raises `InvalidRequest` if it is malformed, contains a password, or names a host that is not allowed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise InvalidRequest("is not a valid URL", field=_LOCATION) from None
    if parts.scheme not in ("http", "https", "s3"):
        raise InvalidRequest("is neither a path under the image root nor a URL of http, https or s3", field=_LOCATION)
    if "@" in parts.netloc:
        raise InvalidRequest("must not hold a login or password", field=_LOCATION)
    if not host or not parts.path.strip("/"):
        raise InvalidRequest("names no file", field=_LOCATION)
    patterns = [each.strip().lower() for each in allowed_hosts.split(",") if each.strip()]
    names = [f"s3://{host}"] if parts.scheme == "s3" else [host, f"{host}:{port}"]
    # Buckets may be the operator's own, so a pattern for hosts, even `*`, admits none.
    if parts.scheme == "s3":
        patterns = [each for each in patterns if each.startswith("s3://")]
    if not any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
        raise InvalidRequest(f"'{host}' is not among PUBLISHER_LOCATION_HOSTS", field=_LOCATION)


def source_name(source: str) -> str:
    """Return the name of a source's file, made safe for a file here."""
    if not is_remote(source):
        return safe_name(PurePosixPath(source).name)
    name = PurePosixPath(urlsplit(source).path).name
    # An encoded slash is part of the name. In S3, a percent sign is just that.
    return safe_name(unquote(name).replace("\ufffd", "_") if is_fetched_by_http(source) else name)


def _image_name(name: str, file: str) -> str:
    """Return an image's name, by default its file's name without suffixes. Raises `InvalidRequest`."""
    return check_name(name or Path(without_suffix(file)).stem, "name", trimmed=False)


# A file that a caller sends -------------------------------------------------------------------------------------------


class IncomingImage:
    """An image that a caller sends. While it arrives, it is unpacked, written under the image root and hashed.

    Use it as a context manager: if it is not registered by the end of the block, its file is deleted. Every method
    blocks.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        name: str = "",
        format: str = "",
        file_name: str = "",
        expected: Checksums = (),
    ) -> None:
        """Check the names and the format. Raises `InvalidRequest`."""
        self._store = store
        self._root = settings.images
        self._virtual_size_max = settings.virtual_size_max
        self._free_bytes_min = settings.disk_free_bytes_min
        if file_name:
            check_name(file_name, "fileName", trimmed=False)
        self._file_name = safe_name(file_name or name or "image")
        self._name = _image_name(name, self._file_name)
        self._format = check_format(format) if format else None
        self._arrival = Arrival(self._root, self._file_name, store.images.has_file)
        self._writer = ImageWriter(self._arrival.path, UnpackLimits.of(settings), field="body", expected=expected)
        self._registered = False

    def __enter__(self) -> Self:
        self._arrival.__enter__()
        try:
            self._writer.__enter__()
        except BaseException as error:
            self._arrival.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)
        self._arrival.close(keep=self._registered)

    @property
    def size(self) -> int:
        """Number of bytes received."""
        return self._writer.received

    @property
    def capacity(self) -> int:
        """Number of bytes that may still be written before the disk counts as full."""
        return shutil.disk_usage(self._root).free - self._free_bytes_min

    def write(self, piece: bytes) -> None:
        """Write a piece of the body.

        Raises `InvalidRequest` if it cannot be unpacked, and `OSError` if the disk is full.
        """
        self._writer.write(piece)

    def register(self, *, owner: str, appliance_id: int) -> Image:
        """Register the image once it is complete.

        Raises `InvalidRequest` if it is empty, is not of the declared format, or does not have the declared checksums.
        """
        written = self._writer.finish()
        if not written.digests.size:
            raise InvalidRequest("is empty; send the image", field="body")
        file_name = unpacked_name(self._file_name, written.compression)
        if file_name != self._file_name:
            self._arrival.rename(file_name)
        disk = examine(
            self._arrival.path,
            wanted_format=self._format,
            file_name=file_name,
            virtual_size_max=self._virtual_size_max,
        )
        self._arrival.committing = True
        location = self._arrival.location
        image = _add(
            self._store, disk, written.digests, location, owner=owner, appliance_id=appliance_id, name=self._name
        )
        self._registered = True
        return image


# The file of a registered image ---------------------------------------------------------------------------------------


def delete(store: Store, image_root: Path, owner: str, appliance_id: int, id: int | None = None) -> None:
    """Delete an image, or all images of an appliance, and those of their files that the service created.

    Files that the operator put under the root stay. If `Images.delete` raises, nothing is deleted.
    """
    # A crash in between leaves a file without an image, and never an image without its file.
    for image in store.images.delete(owner, appliance_id, id):
        unfinished.discard(image_root, image.location)


def open_image(image_root: Path, image: Image) -> io.FileIO:
    """Open the file of an image, and check that it still is what was registered. Blocks; may read the whole file.

    Raises `Conflict` if the image is not ready, or if its file is missing or has changed.
    """
    if not image.ready:
        raise Conflict(f"image {image.id} is not ready, but {image.state}; see its status")
    changed = Conflict(f"the file of image {image.id} is missing or has changed; generate the image again")
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
    # It was written since, but restored from a backup it may be equal. Hash it once after each time it is written.
    seen = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    sha256 = _read_before.get(seen) or hashlib.file_digest(file, "sha256").hexdigest()
    if len(_read_before) >= _READ_BEFORE_MAX:
        _read_before.clear()
    _read_before[seen] = sha256
    return sha256 == image.sha256
