"""Registering generated images: what callers send is taken in at once, what they name is fetched by a worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from publisher.core.checksums import Checksums
from publisher.core.errors import InvalidRequest
from publisher.core.image import Image, check_format
from publisher.core.names import check_name, safe_name
from publisher.core.settings import Settings
from publisher.files.compression import unpacked_name, without_suffix
from publisher.files.disk_format import examine
from publisher.files.image_writer import ImageWriter, UnpackLimits
from publisher.files.unfinished import Arrival
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.services.image_sources import checked_source, file_name, is_fetched_by_http
from publisher.services.wakeups import Wake
from publisher.store import Store


def begin(
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
    """Commit an image that a worker is to fetch and register, and wake one. Raises `InvalidRequest`."""
    source = checked_source(location, settings.images, settings.location_hosts)
    if is_fetched_by_http(source):
        check_named(OutboundPolicy.of(settings), {"location": source})
    image = store.registrations.begin(
        owner=owner,
        appliance_id=appliance_id,
        name=_checked_name(name, file_name(source)),
        wanted_format=check_format(format) if format else None,
        source=source,
        expected=expected,
    )
    wake(image.id)
    return image


def again(store: Store, owner: str, appliance_id: int, id: int, wake: Wake) -> Image:
    """Have a worker fetch an image again from where it came. Raises `NotFound`, `Conflict`."""
    image = store.registrations.again(owner, appliance_id, id)
    wake(image.id)
    return image


def _checked_name(name: str, file: str) -> str:
    """An image's name; by default that of its file, without the suffixes. Raises `InvalidRequest`."""
    return check_name(name or Path(without_suffix(file)).stem, "name", trimmed=False)


class IncomingImage:
    """An image that a caller sends: unpacked where it is compressed, written under the image root and hashed as it
    comes.

    Use as a context; what has not been registered by its end is deleted. Every method blocks.
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
        """Raises `InvalidRequest`."""
        self._store = store
        self._root = settings.images
        self._virtual_size_max = settings.virtual_size_max
        self._free_bytes_min = settings.disk_free_bytes_min
        if file_name:
            check_name(file_name, "fileName", trimmed=False)
        self._file_name = safe_name(file_name or name or "image")
        self._name = _checked_name(name, self._file_name)
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
        """Bytes that have come."""
        return self._writer.received

    @property
    def room(self) -> int:
        """Bytes that may still be written before the disk counts as full."""
        return shutil.disk_usage(self._root).free - self._free_bytes_min

    def write(self, piece: bytes) -> None:
        """Raises `InvalidRequest`, where it cannot be unpacked, and `OSError`, where the disk is full."""
        self._writer.write(piece)

    def register(self, *, owner: str, appliance_id: int) -> Image:
        """Once all has come. Raises `InvalidRequest` where it is empty, not of the format that was named, or has
        another checksum than was said."""
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
        image = self._store.images.add(
            owner=owner,
            appliance_id=appliance_id,
            name=self._name,
            format=disk.format,
            disk_format=disk.disk_format,
            virtual_size=disk.virtual_size,
            warning=disk.warning,
            glance_objection=disk.glance_objection,
            digests=written.digests,
            location=self._arrival.location,
        )
        self._registered = True
        return image
