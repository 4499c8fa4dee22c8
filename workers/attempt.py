"""One attempt to publish the image of a claimed ticket, and its outcome. Knows no Celery and no cloud SDK."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.download_keys import ticket_key
from publisher.core.errors import (
    Cancelled,
    CloudError,
    ConfigurationError,
    DeadlinePassed,
    ImageFileError,
    InvalidRequest,
    LeaseLost,
    PermanentCloudError,
    PublisherError,
    Reason,
    ShuttingDown,
    TransientCloudError,
)
from publisher.core.image import Image, appliance_uri, image_uri, open_under
from publisher.core.ticket import MIB, Phase, State, ticket_download_uri, ticket_uri
from publisher.files.disk_format import DiskFile, examine_opened
from workers import metrics
from workers.backoff import duration_words, retry_delay
from workers.cloud_work import CloudWork
from workers.clouds.base import CloudImage, TicketRef
from workers.transfer import Transfer

logger = logging.getLogger(__name__)

_HASHES_TRUSTED = ("sha512", "sha256", "md5")
"""Hashes that a cloud may report for an image it received. The first that it reports is compared."""
_FINISHING = Phase.FINISHING, "Finishing"
_EXAMINED_MAX = 256
_examined: dict[tuple[object, ...], DiskFile] = {}
"""Results of examining files, so that the tickets of one image do not repeat it."""


class Attempt(CloudWork):
    """One attempt to publish an image. Cleans up if the ticket is cancelled, or has failed."""

    def _work(self) -> State:
        try:
            return self._decide()
        except Cancelled:  # the store reported it while the outcome was recorded
            return self._cancel()

    def _decide(self) -> State:
        try:
            self._lease.check()
            self._publish()
        except Cancelled:
            return self._cancel()
        except (LeaseLost, SQLAlchemyError):
            raise
        except ShuttingDown:
            self.waiting = self._leases.release(self._claim, "The worker shuts down and hands the ticket back")
            return State.QUEUED
        except DeadlinePassed:
            return self._too_late(self._ticket.error)
        except TransientCloudError as error:
            return self._retry(self._words(error), error.reason, error.retry_after_seconds)
        except (PermanentCloudError, InvalidRequest, ImageFileError, ConfigurationError) as error:
            return self._fail(self._words(error), error.reason)
        except Exception as error:
            logger.exception("ticket %d: unexpected", self._ticket.id)
            return self._fail(
                "an unexpected error in the publisher; see its log",
                Reason.INTERNAL,
                f"{type(error).__name__} in the worker",
            )
        return State.PUBLISHED

    def _publish(self) -> None:
        if self._ticket.failure:
            raise PermanentCloudError(self._ticket.failure, reason=Reason(self._ticket.reason or Reason.INTERNAL))
        if self._ticket.attempt > self._settings.attempts_max:
            broke_off = f"given up: {self._settings.attempts_max} workers stopped while working on it"
            raise PermanentCloudError(broke_off, reason=Reason.WORKER_LOST)
        image = self._store.images.get(self._ticket.image_id)
        if image is None:
            raise ImageFileError(f"image {self._ticket.image_id} has been deleted")
        if not image.ready:
            raise ImageFileError(f"image {image.id} is being generated again")
        descriptor = open_under(self._settings.images, image.location)
        try:
            image = self._examined(image, descriptor)
            transfer = Transfer(
                descriptor,
                image.size,
                check=self._lease.check,
                on_sent=self._sent,
                on_converting=self._converting,
                stall_seconds=self._settings.stall_seconds,
                policy=self._policy,
            )
            uploaded = self._upload(image, transfer)
        finally:
            os.close(descriptor)
        self.waiting = self._leases.published(
            self._claim, cloud_id=uploaded.cloud_id, location=uploaded.location, shown_id=uploaded.shown_id
        )
        metrics.PUBLICATION_SECONDS.labels(self._ticket.platform).observe(self._lease.seconds_since_acceptance)

    def _examined(self, image: Image, descriptor: int) -> Image:
        """Examine the file again and return the image with the results.

        An earlier version of this service may have registered it with fewer checks. Raises `ImageFileError` if the
        image must not be sent to any cloud.
        """
        status = os.fstat(descriptor)
        if status.st_size != image.size:
            return image  # the transfer detects that the file has changed
        try:
            disk = _examine(
                descriptor, _version(status), image.format, image.file_name, self._settings.virtual_size_max
            )
        except InvalidRequest as error:
            raise ImageFileError(str(error)) from None
        except OSError as error:
            raise ImageFileError(f"the image file '{image.location}' cannot be read: {error.strerror}") from None
        return replace(
            image,
            disk_format=disk.disk_format,
            virtual_size=disk.virtual_size,
            glance_objection=disk.glance_objection,
        )

    def _upload(self, image: Image, transfer: Transfer) -> CloudImage:
        self._phase(Phase.AUTHENTICATING, "Signing in to the cloud")
        check = self._lease.check
        cloud = self._connect(check)
        if cloud.region:
            self._leases.region(self._claim, cloud.region)
        ref = self._ref(image)
        check()
        for entry in self._journal.entries():
            if entry.state == "condemned":
                self._remove(entry.cloud_id, check)
        try:
            found = uploaded = cloud.find(ref)
        except CloudError:
            # The sign-in of an earlier ticket may be of no use any more: the password or the catalog has changed.
            if not cloud.kept or cloud.left:
                raise
            cloud.close(check)
            self._cloud = None
            cloud = self._connect(check)
            found = uploaded = cloud.find(ref)
        if uploaded and uploaded.complete and (wrong := _difference(uploaded, image, transfer)):
            logger.warning("ticket %d: what an earlier attempt left cannot be used: %s", self._ticket.id, wrong)
            self._remove(uploaded.cloud_id, check)
            uploaded = None
        finishing = False
        if uploaded is None or not uploaded.complete:
            # Only now: what is complete takes up the quota and the name itself.
            cloud.check(image)
            self._steps.begin(Phase.UPLOADING)
            with self._lease.uploading((Phase.UPLOADING, f"Uploading {image.size / MIB:.1f} MiB")) as last:
                uploaded = cloud.upload(image, replace(ref, found=found), transfer)
                self._steps.begin(Phase.VERIFYING)
                last.append((Phase.VERIFYING, "Comparing what the cloud received with what was registered"))
                # If the right hash is known already, both steps are written at once.
                compared = _hash_of(uploaded) is not None or uploaded.source_sha256 is not None
                finishing = compared and _difference(uploaded, image, transfer) is None
                if finishing:
                    last.append(_FINISHING)
            self._verify(uploaded, image, transfer)
        else:
            self._phase(Phase.VERIFYING, "An earlier attempt uploaded everything: hash and size match")
        check()
        if finishing:
            self._steps.begin(Phase.FINISHING)
        else:
            self._phase(*_FINISHING)
        return cloud.finish(uploaded, image)

    def _verify(self, uploaded: CloudImage, image: Image, transfer: Transfer) -> None:
        """Raise `PermanentCloudError` if what the cloud received differs from the registered image."""
        untold = uploaded.complete and _hash_of(uploaded) is None and uploaded.source_sha256 is None
        if untold and transfer.sha256 is None:
            # The file that was sent is still open, and has not been written to since.
            transfer.read_again()
        if wrong := _difference(uploaded, image, transfer):
            raise PermanentCloudError(f"{wrong}; the image was removed from the cloud again", reason=Reason.INTEGRITY)
        if untold:
            self._phase(
                Phase.VERIFYING,
                "The cloud verified nothing: it reports no hash. Its size is right, and what was sent is what was"
                " registered",
            )

    # Outcomes -------------------------------------------------------------------------------------

    def _retry(self, error: str, reason: Reason, retry_after_seconds: float | None) -> State:
        if self._ticket.attempt >= self._settings.attempts_max:
            return self._fail(f"{error} (given up after {self._ticket.attempt} attempts)", reason)
        left = self._lease.seconds_left
        if left <= 0:
            return self._too_late(error)
        # Do not wait beyond the deadline.
        delay = min(retry_delay(self._settings, self._ticket.attempt, retry_after_seconds), left)
        logger.warning("ticket %d: %s; again in %.1f s", self._ticket.id, error, delay)
        self.waiting = self._leases.retry(self._claim, delay_seconds=delay, error=error, reason=reason)
        metrics.RETRIES.labels(self._ticket.platform, reason).inc()
        return State.QUEUED

    def _too_late(self, last_error: str | None) -> State:
        if self._ticket.failure:  # it has failed already, and only its clean-up is repeated
            return self._fail(self._ticket.failure, Reason(self._ticket.reason or Reason.DEADLINE))
        words = f"given up: not published within {duration_words(self._settings.deadline_seconds)} of its acceptance"
        if last_error:
            words += f"; the last error: {last_error}"
        return self._fail(words, Reason.DEADLINE)

    def _fail(self, error: str, reason: Reason, detail: str | None = None) -> State:
        """Clean up, then fail the ticket.

        If the cloud cannot be reached for the clean-up, the ticket is tried again later.
        """
        try:
            self._clean_up(self._lease.check_wanted)
        except (TransientCloudError, ShuttingDown) as blocked:
            # A failed ticket must leave nothing behind, so wait for a cloud that does not answer.
            if self._ticket.attempt < self._clean_ups_max:
                delay = retry_delay(self._settings, self._ticket.attempt)
                words = f"{error}; cleaning up: {self._words(blocked)}"
                self.waiting = self._leases.retry(
                    self._claim, delay_seconds=delay, error=words, reason=reason, failure=error
                )
                metrics.RETRIES.labels(self._ticket.platform, reason).inc()
                return State.QUEUED
            detail = self._leftover(blocked)
        except Cancelled:
            return self._cancel()
        except (LeaseLost, SQLAlchemyError):
            raise
        except PublisherError as blocked:
            detail = self._leftover(blocked)
        except Exception:  # a mistake in a plugin must not keep the ticket from ending
            logger.exception("ticket %d: unexpected, while cleaning up", self._ticket.id)
            detail = self._leftover(PublisherError("an unexpected error in the worker"))
        logger.warning("ticket %d: failed: %s", self._ticket.id, error)
        self.waiting = self._leases.failed(self._claim, error=error, detail=detail, reason=reason)
        metrics.FAILURES.labels(self._ticket.platform, reason).inc()
        return State.FAILED

    def _cancel(self) -> State:
        """Clean up, then cancel the ticket. It stays in `cancelling` until the cloud is verified clean."""
        try:
            self._clean_up(self._lease.check_held)
        except (LeaseLost, SQLAlchemyError):
            raise
        except (PermanentCloudError, ConfigurationError) as error:
            # Another try would not help: a person has to look.
            return self._not_cleaned(error)
        except Exception as error:
            if isinstance(error, PublisherError):
                logger.warning("ticket %d: cleaning up: %s", self._ticket.id, self._words(error))
            else:  # a mistake in a plugin: another worker may have the next try
                logger.exception("ticket %d: unexpected, while cleaning up", self._ticket.id)
                error = PublisherError("an unexpected error in the worker")
            if self._ticket.attempt >= self._clean_ups_max:
                return self._not_cleaned(error)
            delay = retry_delay(self._settings, self._ticket.attempt)
            self._leases.hand_over(self._claim, delay_seconds=delay)
            # The cancel has freed the slot.
            self.waiting = self._leases.next_waiting(self._claim)
            return State.CANCELLING
        self.waiting = self._leases.cancelled(self._claim)
        return State.CANCELLED

    def _not_cleaned(self, error: PublisherError) -> State:
        logger.warning("ticket %d: not cleaned up: %s", self._ticket.id, self._words(error))
        words = "cancelled, but not cleaned up"
        self.waiting = self._leases.not_cleaned(
            self._claim, error=words, detail=self._leftover(error), reason=error.reason
        )
        metrics.FAILURES.labels(self._ticket.platform, error.reason).inc()
        return State.FAILED

    @property
    def _clean_ups_max(self) -> int:
        """The attempt after which leftovers are left to the sweeper."""
        return self._settings.attempts_max + self._settings.clean_up_attempts

    def _clean_up(self, check: Callable[[], None]) -> None:
        """Delete all that the journal lists, and raise what `check` raises."""
        for entry in self._journal.entries():
            if entry.state != "gone":
                check()
                self._remove(entry.cloud_id, check)

    def _leftover(self, blocked: Exception) -> str:
        left = ", ".join(entry.cloud_id for entry in self._journal.entries() if entry.state != "gone")
        return f"{left} may be left in the cloud, cleaning up failed: {self._words(blocked)}"

    def _ref(self, image: Image) -> TicketRef:
        ticket = self._ticket
        return TicketRef(
            tags=self._tags,
            ticket_uri=ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id),
            image_uri=image_uri(ticket.owner, ticket.appliance_id, ticket.image_id),
            appliance_uri=appliance_uri(ticket.owner, ticket.appliance_id),
            journal=self._journal,
            scratch=self._scratch,
            link=self._link(image),
        )

    def _link(self, image: Image) -> str | None:
        """Return the URL under which the cloud can download the image once; None without `PUBLISHER_PUBLIC_URL`."""
        if not self._settings.public_url:
            return None
        ticket = self._ticket
        key = ticket_key(self._vault, ticket, image)
        return f"{self._settings.intake}/api/{ticket_download_uri(ticket.owner, ticket.appliance_id, ticket.id, key)}"

    def _phase(self, phase: Phase, words: str) -> None:
        self._steps.begin(phase)
        self._leases.phase(self._claim, phase, words)

    def _converting(self, begins: bool) -> None:
        if begins:
            self._leases.phase(self._claim, Phase.CONVERTING, "Converting the image for the cloud")
        else:
            self._leases.phase(self._claim, Phase.UPLOADING, "Uploading the converted image")

    def _sent(self, count: int) -> None:
        self._lease.sent = count


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return values that change whenever a file is written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _examine(descriptor: int, version: tuple[int, ...], format: str, file_name: str, virtual_size_max: int) -> DiskFile:
    """Examine a file, or return the result for the same version of the file, which other tickets have used."""
    key = version, format, file_name, virtual_size_max
    found = _examined.get(key)
    if found is None:
        found = examine_opened(descriptor, wanted_format=format, file_name=file_name, virtual_size_max=virtual_size_max)
        if len(_examined) >= _EXAMINED_MAX:
            _examined.clear()
        _examined[key] = found
    return found


def _difference(uploaded: CloudImage, image: Image, transfer: Transfer) -> str | None:
    """Describe how what the cloud received differs from the registered image; None if it does not."""
    if not uploaded.complete:
        return "the cloud does not list the image as complete"
    if uploaded.source_sha256 is not None and _hash_of(uploaded) is None:
        return _difference_of_source(uploaded, image, transfer)
    if uploaded.size != image.size:
        return f"the cloud received {uploaded.size} bytes of {image.size}"
    if reported := _hash_of(uploaded):
        algorithm, value = reported
        same = value == getattr(image, algorithm)
        return None if same else f"the {algorithm} that the cloud computed is not the registered one"
    # The cloud reports no hash, so compare what left this worker.
    if transfer.sha256 is None:
        return "the cloud reports no hash, and its bytes were not sent in this attempt"
    return None if transfer.sha256 == image.sha256 else "the sha256 of what was sent is not the registered one"


def _difference_of_source(uploaded: CloudImage, image: Image, transfer: Transfer) -> str | None:
    """Describe how the file that the plugin vouches for differs from the registered one; None if it does not."""
    if uploaded.source_size != image.size:
        return f"the cloud's image was made of {uploaded.source_size} bytes, not of {image.size}"
    if uploaded.source_sha256 != image.sha256:
        return "the sha256 of what the cloud's image was made of is not the registered one"
    if transfer.sha256 not in (None, image.sha256):
        return "the sha256 of what was sent is not the registered one"
    return None


def _hash_of(uploaded: CloudImage) -> tuple[str, str] | None:
    """Return algorithm and value of the hash to compare; None if the cloud reports none."""
    return next(((name, uploaded.hashes[name]) for name in _HASHES_TRUSTED if name in uploaded.hashes), None)
