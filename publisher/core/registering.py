"""Registering generated images: what callers send is taken in at once, what they name is fetched by a worker."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from sqlalchemy.exc import SQLAlchemyError

from publisher.core import catalog
from publisher.core.addresses import check_named
from publisher.core.disk_format import examine
from publisher.core.errors import InvalidRequest, QueueUnavailable
from publisher.core.image import Hasher, Image, check_format
from publisher.core.locations import checked_source, file_name, is_fetched_by_http, safe_name
from publisher.core.network import OutboundPolicy
from publisher.core.settings import Settings
from publisher.core.store import Store

logger = logging.getLogger(__name__)

_NAME_MAX = 255


class ImageWaker(Protocol):
    def send_image(self, image_id: int) -> None:
        """Raises `QueueUnavailable`."""


def begin(
    store: Store,
    settings: Settings,
    *,
    owner: str,
    appliance_id: int,
    location: str,
    name: str = "",
    format: str = "",
) -> Image:
    """Commit an image that a worker is to fetch and to register. Raises `InvalidRequest`."""
    source = checked_source(location, settings.images, settings.location_hosts)
    if is_fetched_by_http(source):
        check_named(OutboundPolicy.of(settings), {"location": source})
    return store.registrations.begin(
        owner=owner,
        appliance_id=appliance_id,
        name=_checked_name(name or Path(file_name(source)).stem),
        wanted_format=check_format(format) if format else None,
        source=source,
    )


def wake_image(store: Store, waker: ImageWaker, image_id: int) -> None:
    """Wake a worker for an image. With the broker away that is left to the reconciler."""
    try:
        waker.send_image(image_id)
    except QueueUnavailable as error:
        logger.warning("image %d is to be registered, but no worker was woken: %s", image_id, error)
        store.registrations.woken(image_id, sent=False)


class Incoming:
    """An image that a caller sends: written under the image root and hashed as it comes.

    Use as a context; what has not been registered by its end is deleted. Every method blocks.
    """

    def __init__(self, settings: Settings, *, name: str = "", format: str = "", file_name: str = "") -> None:
        """Raises `InvalidRequest`."""
        self._root = settings.images
        self._virtual_size_max = settings.virtual_size_max
        self._file_name = safe_name(file_name or name or "image")
        self._name = _checked_name(name or Path(self._file_name).stem)
        self._format = check_format(format) if format else None
        self._hasher = Hasher()

    def __enter__(self) -> Self:
        self._location = catalog.new_location(self._file_name)
        self._file = catalog.incoming(self._root, self._location.partition("/")[0])
        self._opened = self._file.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
        self._file.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self._hasher.size

    @property
    def room(self) -> int:
        """Bytes that may still be written before the disk is full."""
        return shutil.disk_usage(self._root).free

    def write(self, piece: bytes) -> None:
        """Raises `OSError`, where the disk is full."""
        self._opened.write(piece)
        self._hasher.update(piece)

    def register(self, store: Store, *, owner: str, appliance_id: int) -> Image:
        """Once all has come. Raises `InvalidRequest` where it is empty, or not of the format that was named."""
        if not self.size:
            raise InvalidRequest("is empty; send the image", field="body")
        self._opened.flush()
        os.fsync(self._opened.fileno())
        disk = examine(
            self._file,
            wanted_format=self._format,
            file_name=self._file_name,
            virtual_size_max=self._virtual_size_max,
        )
        catalog.bring_in(self._root, self._file, self._location)
        try:
            return store.images.add(
                owner=owner,
                appliance_id=appliance_id,
                name=self._name,
                format=disk.format,
                disk_format=disk.disk_format,
                virtual_size=disk.virtual_size,
                warning=disk.warning,
                glance_objection=disk.glance_objection,
                digests=self._hasher.digests(),
                location=self._location,
            )
        except SQLAlchemyError:
            # It may be committed, and only the answer was lost: an image must not be without its file.
            if not store.images.has_file(self._location):
                catalog.discard(self._root, self._location)
            raise
        except BaseException:
            catalog.discard(self._root, self._location)
            raise


def _checked_name(name: str) -> str:
    if not 0 < len(name) <= _NAME_MAX or not name.isprintable():
        raise InvalidRequest(f"has 1 to {_NAME_MAX} printable characters", field="name")
    return name
