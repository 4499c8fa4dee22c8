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
from types import TracebackType
from typing import Self

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
from publisher.store import Store
from publisher.store.registrations import Registration, Registrations
from publisher.telemetry.logs import bound, with_context
from workers.backoff import retry_delay
from workers.fetch import fetch

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
            logger.warning("image %d: the lease was lost; whoever is free may claim the image", image_id)
            raise RegistrationFreed from None
        logger.info("image %d: %s", image_id, state)
        return state

    def _outcome(self, claim: Registration, asked: float) -> ImageState:
        """Do the work and record how it ended. Raises only `LeaseLost` and `SQLAlchemyError`."""
        if claim.image.attempt > self._settings.attempts_max:
            return self._failed(claim, f"given up: {self._settings.attempts_max} workers broke off while at it")
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
            return self._failed(claim, "an unexpected error in the publisher; its log tells more")
        return ImageState.READY

    def _register(self, claim: Registration, asked: float) -> None:
        image, root = claim.image, self._settings.images
        source = image.source or ""
        # Discard what an earlier attempt or an earlier generation of the image has left: no ticket needs it any more.
        unfinished.discard(root, image.location)
        unfinished.discard_fetched(root, image.id, claim.token)
        with RegistrationLease(
            self._registrations, claim, self._settings, self._shutting_down, asked=asked
        ) as progress:
            if is_remote(source):
                self._bring_in(claim, progress, lambda writer: _fetch(source, writer, self._settings, progress))
                return
            with io.FileIO(open_under(root, source)) as file:
                progress.total = os.fstat(file.fileno()).st_size
                if compression_of(os.pread(file.fileno(), HEAD_BYTES, 0)) is not None:
                    self._bring_in(claim, progress, lambda writer: _copy(file, writer, progress))
                    return
                digests = _digest(file, progress)
            check_checksums(image.expected, digests.by_algorithm())
            self._ready(claim, digests, root / source, source)

    def _bring_in(self, claim: Registration, progress: RegistrationLease, fill: Callable[[ImageWriter], None]) -> None:
        """Let `fill` write a new file, move the file under the image root, and register it."""
        image, root = claim.image, self._settings.images
        location = ""
        with unfinished.fetching(root, image.id, claim.token) as incoming:
            try:
                written = _write(image, incoming, self._settings, progress, fill)
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


class RegistrationLease:
    """Holds the claim inside its context: a thread of its own renews the lease and writes the progress.

    Work that has not called `check` for a long time is stuck: then the lease is no longer renewed.
    """

    def __init__(
        self,
        registrations: Registrations,
        claim: Registration,
        settings: Settings,
        shutting_down: threading.Event,
        *,
        asked: float,
    ) -> None:
        """`asked` is the time at which the claim was requested, by the monotonic clock."""
        self.sent = self.total = 0
        self._registrations = registrations
        self._claim = claim
        self._settings = settings
        self._shutting_down = shutting_down
        self._renewed = self._checked = asked
        # Some steps, such as flushing a whole image to the disk, take long and cannot be interrupted.
        self._silent_seconds = settings.verify_seconds + settings.stall_seconds
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=with_context(self._keep), name=f"image-{claim.image.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise `LeaseLost` or `ShuttingDown` if the work must stop. Cheap enough to call often."""
        if not self._holds():
            raise LeaseLost
        self._checked = time.monotonic()
        if self._shutting_down.is_set():
            raise ShuttingDown

    def _holds(self) -> bool:
        """Return whether the lease still holds.

        Uses this process's own clock first: after a pause longer than the lease, it knows that the lease is lost
        without asking the store.
        """
        if time.monotonic() - self._renewed > self._settings.lease_seconds:
            self._lost = True
        return not self._lost

    def _keep(self) -> None:
        # Write at every turn, even without progress: the write is what notices a cancel.
        while not self._ended.wait(self._settings.progress_seconds):
            if not self._holds():
                return
            asked = time.monotonic()
            if asked - self._checked > self._silent_seconds:
                id = self._claim.image.id
                logger.error("image %d: the work is stuck: it did not move for %.0f s", id, self._silent_seconds)
                self._lost = True
                return
            try:
                self._registrations.renew(
                    self._claim, self._settings.lease_seconds, sent=self.sent, total=max(self.sent, self.total)
                )
                self._renewed = asked
            except LeaseLost:
                self._lost = True
                return
            except SQLAlchemyError as error:
                logger.warning("image %d: the store did not answer: %s", self._claim.image.id, type(error).__name__)


def _digest(file: io.FileIO, progress: RegistrationLease) -> Digests:
    """Hash a file. Raises what `RegistrationLease.check` raises."""
    hasher = Hasher()
    for piece in pieces(file):
        progress.check()
        hasher.update(piece)
        progress.sent = hasher.size
    return hasher.digests()


def _write(
    image: Image, incoming: Path, settings: Settings, progress: RegistrationLease, fill: Callable[[ImageWriter], None]
) -> Written:
    """Let `fill` write a file, and finish it. Raises what `fill` and `ImageWriter` raise."""
    limits = UnpackLimits.of(settings)
    try:
        with ImageWriter(incoming, limits, field="location", expected=image.expected, check=progress.check) as writer:
            fill(writer)
            return writer.finish()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space() from None
        raise


def _copy(file: io.FileIO, writer: ImageWriter, progress: RegistrationLease) -> None:
    """Unpack a file under the image root."""
    for piece in pieces(file):
        progress.check()
        writer.write(piece)
        progress.sent = writer.received


def _fetch(source: str, writer: ImageWriter, settings: Settings, progress: RegistrationLease) -> None:
    """Fetch the file that a URL names. Raises what `fetch` raises, and `ImageTooLarge`."""
    looked_at = 0

    def expect(total: int) -> None:
        progress.total = total
        _check_size(total, settings)
        _check_room(total, settings)

    def take(piece: bytes) -> None:
        nonlocal looked_at
        _check_size(writer.received + len(piece), settings)
        if writer.received - looked_at >= _ROOM_BYTES:
            looked_at = writer.received
            _check_room(max(0, progress.total - writer.received), settings)
        writer.write(piece)
        progress.sent = writer.received

    fetch(source, settings, expect=expect, take=take, check=progress.check)
    if progress.total and writer.received != progress.total:
        raise TransientCloudError(f"{writer.received} of {progress.total} bytes came, then the connection ended")


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
