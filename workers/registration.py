"""Register one generated image: claim it, fetch it, unpack it, hash it and examine it."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import (
    ImageFileError,
    ImageTooLarge,
    InvalidRequest,
    LeaseLost,
    PermanentCloudError,
    ShuttingDown,
    TransientCloudError,
)
from publisher.core.image import Digests, Image, ImageState, check_checksums, open_under
from publisher.core.settings import Settings
from publisher.files import unfinished
from publisher.files.compression import HEAD_BYTES, compression_of, unpacked_name
from publisher.files.disk_format import examine
from publisher.files.hashing import Hasher, pieces
from publisher.files.image_writer import ImageWriter, UnpackLimits, Written
from publisher.services.image_files import is_remote, source_name
from publisher.store import Registration, Store
from publisher.telemetry.logs import bound
from workers.backoff import retry_delay
from workers.lease import Lease

logger = logging.getLogger(__name__)

_ROOM_BYTES = 64 << 20
"""After this many bytes, check again that the disk has space for the rest."""


class RegistrationFreed(LeaseLost):
    """The lease was lost, and nobody else has the image."""


class Registrar:
    """Registers images. May be called from several threads, one image each."""

    def __init__(
        self, store: Store, settings: Settings, *, worker: str, shutting_down: threading.Event | None = None
    ) -> None:
        self._store = store
        self._registrations = store.registrations
        self._settings = settings
        self._worker = worker
        self._shutting_down = shutting_down or threading.Event()

    def run(self, image_id: int, *, go_on: bool = False) -> ImageState | None:
        """Claim an image and register it as far as possible. Never raises for what goes wrong with the image.

        Returns the image's state as this worker left it. Returns None if there was nothing to claim, the image was
        cancelled or taken over meanwhile, or the store did not answer. With `go_on`, an image whose lease was lost is
        claimed again, unless another worker has claimed it by then.
        """
        if self._shutting_down.is_set():
            return None
        with bound(image=image_id, worker=self._worker):
            try:
                while True:
                    try:
                        return self._run(image_id)
                    except RegistrationFreed:
                        if not go_on or self._shutting_down.is_set():
                            return None
            except LeaseLost:
                logger.warning("image %d: the lease was lost: cancelled, or taken over by another worker", image_id)
            except SQLAlchemyError as error:
                logger.warning("image %d: the store did not answer: %s", image_id, type(error).__name__)
            return None

    def _run(self, image_id: int) -> ImageState | None:
        """Claim the image and register it. Raises `LeaseLost`, `RegistrationFreed` and `SQLAlchemyError`."""
        asked = time.monotonic()
        claim = self._registrations.claim(image_id, self._worker, self._settings.lease_seconds)
        if claim is None:
            return None
        logger.info("image %d: claimed, attempt %d", image_id, claim.image.attempt)
        try:
            state = self._outcome(claim, asked)
        except LeaseLost:
            self._registrations.give_up(claim)
            logger.warning("image %d: the lease was lost; any worker may claim the image", image_id)
            raise RegistrationFreed from None
        logger.info("image %d: %s", image_id, state)
        return state

    def _outcome(self, claim: Registration, asked: float) -> ImageState:
        """Do the work and record how it ended. Raises only `LeaseLost` and `SQLAlchemyError`."""
        if claim.image.attempt > self._settings.attempts_max:
            return self._failed(claim, f"given up: {self._settings.attempts_max} workers stopped while working on it")
        try:
            self._register(claim, asked)
        except (LeaseLost, SQLAlchemyError):
            raise
        except ShuttingDown:
            self._registrations.release(claim)
            return ImageState.QUEUED
        except TransientCloudError as error:
            return self._retry(claim, error)
        except (PermanentCloudError, InvalidRequest, ImageFileError) as error:
            return self._failed(claim, str(error))
        except Exception:
            logger.exception("image %d: unexpected", claim.image.id)
            return self._failed(claim, "an unexpected error in the publisher; see its log")
        return ImageState.READY

    def _register(self, claim: Registration, asked: float) -> None:
        image, root = claim.image, self._settings.images
        source = image.source or ""
        # Discard what an earlier attempt or an earlier generation of the image has left: no ticket needs it any more.
        unfinished.discard(root, image.location)
        unfinished.discard_fetched(root, image.id, claim.token)
        with self._lease(claim, asked) as lease:
            if is_remote(source):
                self._bring_in(claim, lease, lambda writer: _fetch(source, writer, self._settings, lease))
                return
            with io.FileIO(open_under(root, source)) as file:
                lease.total = os.fstat(file.fileno()).st_size
                if compression_of(os.pread(file.fileno(), HEAD_BYTES, 0)) is not None:
                    self._bring_in(claim, lease, lambda writer: _copy(file, writer, lease))
                    return
                digests = _digest(file, lease)
            check_checksums(image.expected, digests.by_algorithm())
            self._ready(claim, digests, root / source, source)

    def _lease(self, claim: Registration, asked: float) -> Lease:
        """Return the lease of an image, which holds the claim once it is entered."""
        settings = self._settings

        def renew() -> bool:
            # At every turn, even without progress: the write is what notices a cancel.
            total = max(lease.sent, lease.total)
            self._registrations.renew(claim, settings.lease_seconds, sent=lease.sent, total=total)
            return True

        lease = Lease(
            f"image {claim.image.id}",
            renew,
            settings,
            stops=self._shutting_down.is_set,
            # Some steps, such as flushing a whole image to the disk, take long and cannot be interrupted.
            silent_seconds=settings.verify_seconds + settings.stall_seconds,
            asked=asked,
        )
        return lease

    def _bring_in(self, claim: Registration, lease: Lease, fill: Callable[[ImageWriter], None]) -> None:
        """Let `fill` write a new file, move the file under the image root, and register it."""
        image, root = claim.image, self._settings.images
        location = ""
        with unfinished.fetching(root, image.id, claim.token) as incoming:
            try:
                written = _write(image, incoming, self._settings, lease, fill)
                location = unfinished.new_location(unpacked_name(source_name(image.source or ""), written.compression))
                self._registrations.record_location(claim, location)
                unfinished.bring_in(root, incoming, location)
                self._ready(claim, written.digests, root / location, location)
            except SQLAlchemyError:
                # The commit may have succeeded and only the answer was lost. If not, the next attempt discards the
                # file.
                raise
            except BaseException:
                unfinished.discard(root, location)
                raise

    def _ready(self, claim: Registration, digests: Digests, file: Path, location: str) -> None:
        if not digests.size:
            raise ImageFileError("the file is empty")
        disk = examine(
            file,
            wanted_format=claim.image.wanted_format,
            file_name=source_name(location),
            virtual_size_max=self._settings.virtual_size_max,
        )
        if location == claim.image.source:
            self._registrations.record_location(claim, location)
        self._registrations.ready(
            claim,
            format=disk.format,
            disk_format=disk.disk_format,
            virtual_size=disk.virtual_size,
            warning=disk.warning,
            glance_objection=disk.glance_objection,
            digests=digests,
        )

    def _retry(self, claim: Registration, error: TransientCloudError) -> ImageState:
        if claim.image.attempt >= self._settings.attempts_max:
            return self._failed(claim, f"{error} (given up after {claim.image.attempt} attempts)")
        delay = retry_delay(self._settings, claim.image.attempt, error.retry_after_seconds)
        logger.warning("image %d: %s; again in %.1f s", claim.image.id, error, delay)
        self._registrations.retry(claim, delay_seconds=delay, error=str(error))
        return ImageState.QUEUED

    def _failed(self, claim: Registration, error: str) -> ImageState:
        logger.warning("image %d: failed: %s", claim.image.id, error)
        self._registrations.failed(claim, error)
        return ImageState.FAILED


def _digest(file: io.FileIO, lease: Lease) -> Digests:
    """Hash a file. Raises what `Lease.check` raises."""
    hasher = Hasher()
    for piece in pieces(file):
        lease.check()
        hasher.update(piece)
        lease.sent = hasher.size
    return hasher.digests()


def _write(
    image: Image, incoming: Path, settings: Settings, lease: Lease, fill: Callable[[ImageWriter], None]
) -> Written:
    """Let `fill` write a file, and finish it. Raises what `fill` and `ImageWriter` raise."""
    limits = UnpackLimits.of(settings)
    try:
        with ImageWriter(incoming, limits, field="location", expected=image.expected, check=lease.check) as writer:
            fill(writer)
            return writer.finish()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space() from None
        raise


def _copy(file: io.FileIO, writer: ImageWriter, lease: Lease) -> None:
    """Unpack a file under the image root."""
    for piece in pieces(file):
        lease.check()
        writer.write(piece)
        lease.sent = writer.received


def _fetch(source: str, writer: ImageWriter, settings: Settings, lease: Lease) -> None:
    """Fetch the file that a URL names. Raises what `fetch` raises, and `ImageTooLarge`."""
    looked_at = 0

    def expect(total: int) -> None:
        lease.total = total
        _check_size(total, settings)
        _check_room(total, settings)

    def take(piece: bytes) -> None:
        nonlocal looked_at
        _check_size(writer.received + len(piece), settings)
        if writer.received - looked_at >= _ROOM_BYTES:
            looked_at = writer.received
            _check_room(max(0, lease.total - writer.received), settings)
        writer.write(piece)
        lease.sent = writer.received

    # Imported here: it takes 0.15 s with its libraries, and only remote images need it.
    from workers.fetch import fetch

    fetch(source, settings, expect=expect, take=take, check=lease.check)
    if lease.total and writer.received != lease.total:
        raise TransientCloudError(f"{writer.received} of {lease.total} bytes came, then the connection ended")


def _check_size(size: int, settings: Settings) -> None:
    if size > settings.upload_bytes_max:
        raise ImageTooLarge(
            f"the image is larger than {settings.upload_bytes_max} bytes (PUBLISHER_UPLOAD_BYTES_MAX)", field="location"
        )


def _check_room(size: int, settings: Settings) -> None:
    if size > shutil.disk_usage(settings.images).free - settings.disk_free_bytes_min:
        raise _no_space()


def _no_space() -> TransientCloudError:
    return TransientCloudError("there is no space left for the image")
