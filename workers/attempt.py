"""One attempt at a claimed ticket, and its outcome. Knows no Celery and no cloud SDK.

This is the only place that turns exceptions into outcomes; only their type decides.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

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
from publisher.core.settings import Settings
from publisher.core.ticket import MIB, Account, CloudRef, Older, Phase, State, Target, ticket_download_uri, ticket_uri
from publisher.core.vault import Vault
from publisher.files.disk_format import DiskFile, examine_opened
from publisher.outbound.policy import OutboundPolicy
from publisher.store import Claim, Store
from publisher.telemetry import tracing
from workers import metrics
from workers.backoff import retry_delay
from workers.bounded import BoundedCloud
from workers.clouds import plugin
from workers.clouds.base import CloudImage, Tagged, Tags, TicketRef, Timeouts
from workers.lease import TicketLease
from workers.scratch import Scratch
from workers.transfer import Transfer

logger = logging.getLogger(__name__)

_HASHES_TRUSTED = ("sha512", "sha256", "md5")
"""Hashes that a cloud may report for an image it received. The first that it reports is compared."""
Result = TypeVar("Result")
_FINISHING = Phase.FINISHING, "Finishing"
_EXAMINED_MAX = 256
_examined: dict[tuple[object, ...], DiskFile] = {}
"""Results of examining files, so that the tickets of one image do not repeat it."""


class TicketJournal:
    """The list of what a ticket has created, or may have created, in a cloud. It is written under the ticket's lease.

    Deletions can be recorded even after a cancel. While the lease holds, nobody else writes the list, so it is read
    again only after a write.
    """

    def __init__(self, store: Store, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        # Only those who have claimed the ticket write the list: at the first claim it is empty.
        self._entries: Sequence[CloudRef] | None = () if claim.token == 1 else None

    def entries(self) -> Sequence[CloudRef]:
        if self._entries is None:
            self._entries = self._store.tickets.journal(self._claim.ticket.id)
        return self._entries

    def plan(self, cloud_id: str) -> None:
        with self._writing():
            self._store.leases.plan(self._claim, cloud_id)

    def present(self, cloud_id: str) -> None:
        self._mark(cloud_id, "present")

    def condemn(self, cloud_id: str) -> None:
        self._mark(cloud_id, "condemned")

    def gone(self, cloud_id: str) -> None:
        self._mark(cloud_id, "gone")

    def _mark(self, cloud_id: str, state: str) -> None:
        with self._writing():
            self._store.leases.mark(self._claim, cloud_id, state)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        finally:
            # Also if it failed: the database may have written it nevertheless.
            self._entries = None


class Attempt:
    """One attempt at a claimed ticket."""

    waiting: Sequence[int] = ()
    """Known at the end: the tickets that wait for the slot that this one has left."""

    def __init__(
        self, store: Store, vault: Vault, settings: Settings, policy: OutboundPolicy, lease: TicketLease
    ) -> None:
        self._store = store
        self._leases = store.leases
        self._vault = vault
        self._settings = settings
        self._lease = lease
        self._claim = lease.claim
        self._ticket = lease.claim.ticket
        self._journal = TicketJournal(store, lease.claim)
        self._policy = policy
        self._scratch = Scratch(settings)
        self._cloud: BoundedCloud | None = None
        self._account: Account | None = None
        self._steps = tracing.Steps()

    def outcome(self) -> State:
        """Do the work and record how it ended. Raises only `LeaseLost` and `SQLAlchemyError`."""
        try:
            if self._ticket.state in (State.WITHDRAWING, State.PUBLISHED):
                return self._change_published()
            try:
                return self._decide()
            except Cancelled:  # the store reported it while the outcome was recorded
                return self._cancel()
        finally:
            self._steps.end()
            if self._cloud:
                self._cloud.close(self._lease.check_held)
            self._scratch.close()

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
        words = f"given up: not published within {_duration(self._settings.deadline_seconds)} of its acceptance"
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

    def _remove(self, cloud_id: str, check: Callable[[], None]) -> None:
        cloud = self._connect(check)
        self._lease.check_held()
        self._journal.condemn(cloud_id)
        if self._ticket.target.get("protected") and self._ticket.state in (State.PUBLISHING, State.CANCELLING):
            # Not for a published image: its owner lifts the protection first.
            cloud.release(cloud_id, self._tags, check)
        cloud.delete(cloud_id, self._tags, check)
        self._journal.gone(cloud_id)

    def _leftover(self, blocked: Exception) -> str:
        left = ", ".join(entry.cloud_id for entry in self._journal.entries() if entry.state != "gone")
        return f"{left} may be left in the cloud, cleaning up failed: {self._words(blocked)}"

    def _words(self, error: Exception) -> str:
        return self._account.hide_secrets(str(error)) if self._account else str(error)

    # What happens to a published image ------------------------------------------------------------

    def _change_published(self) -> State:
        """Withdraw what the ticket has published, or hide or rename it because a newer image replaces it.

        If the cloud refuses, or does not answer until the deadline, the ticket is published as before.
        """
        try:
            self._lease.check()
            if self._ticket.retire:
                self._refuse_if_used(self._lease.check)
            if self._ticket.state is State.PUBLISHED:
                words = self._retire(self._lease.check)
                self._leases.retired(self._claim, words=words)
                return State.PUBLISHED
            self._remove_all(self._lease.check)
        except (LeaseLost, SQLAlchemyError):
            raise
        except ShuttingDown:
            self._leases.hand_over(self._claim)
            return self._ticket.state
        except DeadlinePassed:
            return self._withdrawn_too_late(self._ticket.error)
        except (PermanentCloudError, InvalidRequest, ConfigurationError) as error:
            return self._not_withdrawn(self._words(error), error.reason, left="still in the cloud")
        except TransientCloudError as error:
            return self._withdraw_later(self._words(error), error.reason, error.retry_after_seconds)
        except Exception:  # a mistake in a plugin: another worker may have the next try
            logger.exception("ticket %d: unexpected, while withdrawing", self._ticket.id)
            return self._withdraw_later("an unexpected error in the worker", Reason.INTERNAL)
        self._leases.withdrawn(self._claim, words="Withdrawn: nothing is left in the cloud")
        return State.WITHDRAWN

    def _refuse_if_used(self, check: Callable[[], None]) -> None:
        """Raise `PermanentCloudError` if the image that a newer one replaces is in use."""
        cloud_id = str(self._ticket.cloud_id)
        if why := self._at_first(check, lambda cloud: cloud.in_use(cloud_id)):
            raise PermanentCloudError(f"the image is in use: {why}", reason=Reason.REFUSED)

    def _retire(self, check: Callable[[], None]) -> str:
        """Hide or rename the image, and return words for the ticket's history. Can be repeated."""
        cloud, cloud_id = self._connect(check), str(self._ticket.cloud_id)
        check()
        if self._ticket.retire == Older.HIDE:
            cloud.hide(cloud_id, self._tags)
            return "Hidden in the cloud"
        cloud.rename(cloud_id, self._tags, self._ticket.dated_name)
        return f"Renamed to '{self._ticket.dated_name}' in the cloud"

    def _remove_all(self, check: Callable[[], None]) -> None:
        """Delete all that the journal lists and all that has the ticket's tags, and search the cloud again.

        What was published is deleted last: if anything else stays, the ticket is published as before.
        """
        published = self._ticket.cloud_id
        tagged = [each.cloud_id for each in self._tagged(check)]
        states = {entry.cloud_id: entry.state for entry in self._journal.entries()}
        others = dict.fromkeys([*(id for id, state in states.items() if state != "gone"), *tagged])
        for cloud_id in others:
            if cloud_id != published:
                check()
                self._remove(cloud_id, check)
        if published and (states.get(published) != "gone" or published in tagged):
            check()
            self._remove(published, check)
        if left := ", ".join(each.cloud_id for each in self._tagged(check)):
            raise TransientCloudError(f"the cloud still lists {left} after its deletion")

    def _tagged(self, check: Callable[[], None]) -> Sequence[Tagged]:
        return self._at_first(check, lambda cloud: cloud.tagged_by(self._tags))

    def _at_first(self, check: Callable[[], None], call: Callable[[BoundedCloud], Result]) -> Result:
        """Return what a call returns that may be the first one after the sign-in."""
        cloud = self._connect(check)
        try:
            return call(cloud)
        except CloudError:
            # The sign-in of an earlier ticket may be of no use any more, as for a publication.
            if not cloud.kept or cloud.left:
                raise
            cloud.close(check)
            self._cloud = None
            return call(self._connect(check))

    def _withdraw_later(self, error: str, reason: Reason, retry_after_seconds: float | None = None) -> State:
        left = self._lease.seconds_left
        if left <= 0:
            return self._withdrawn_too_late(error)
        delay = min(retry_delay(self._settings, self._ticket.attempt, retry_after_seconds), left)
        logger.warning("ticket %d: %s: %s; again in %.1f s", self._ticket.id, self._not_done, error, delay)
        published = self._ticket.state is State.PUBLISHED
        words = f"{self._not_done} yet: {error}" if published else error
        self._leases.withdraw_later(self._claim, delay_seconds=delay, error=words, reason=reason)
        metrics.RETRIES.labels(self._ticket.platform, reason).inc()
        return self._ticket.state

    @property
    def _not_done(self) -> str:
        """Words for what could not be done with the published image."""
        return {Older.HIDE: "not hidden", Older.RENAME: "not renamed"}.get(
            Older(self._ticket.retire or Older.WITHDRAW), "not withdrawn"
        )

    def _withdrawn_too_late(self, last_error: str | None) -> State:
        words = f"given up after {_duration(self._settings.deadline_seconds)}"
        if last_error:
            words += f"; the last error: {last_error.removeprefix(f'{self._not_done} yet: ')}"
        # A deletion whose answer was lost may still take effect.
        return self._not_withdrawn(words, Reason.DEADLINE, left="perhaps still in the cloud")

    def _not_withdrawn(self, error: str, reason: Reason, *, left: str) -> State:
        logger.warning("ticket %d: %s: %s", self._ticket.id, self._not_done, error)
        states = {entry.cloud_id: entry.state for entry in self._journal.entries()}
        if states.get(str(self._ticket.cloud_id)) == "gone":
            # The cloud has confirmed each deletion. Only the last search for leftovers has failed.
            words = f"Withdrawn: all that the ticket made is deleted. The cloud could not be searched again: {error}"
            self._leases.withdrawn(self._claim, words=words)
            return State.WITHDRAWN
        ids = [id for id, state in states.items() if state != "gone"] or [str(self._ticket.cloud_id)]
        detail = f"{left}: {', '.join(ids)}"
        self._leases.not_withdrawn(self._claim, error=f"{self._not_done}: {error}", detail=detail, reason=reason)
        return State.PUBLISHED

    # Parts ----------------------------------------------------------------------------------------

    def _connect(self, check: Callable[[], None]) -> BoundedCloud:
        """Sign in, if that is not done yet. `check` stops this, and by default the calls that follow, by raising."""
        if self._cloud is None or self._cloud.left:
            ticket = self._ticket
            if ticket.sealed_secrets is None:
                raise ConfigurationError("the account's secrets are no longer kept; publish again")
            account = Account(ticket.platform, ticket.account, self._vault.open(ticket.sealed_secrets))
            self._account = account
            target = Target(ticket.platform, ticket.target)
            timeouts = Timeouts(
                self._settings.connect_timeout_seconds,
                self._settings.call_timeout_seconds,
                self._settings.verify_seconds,
            )

            self._cloud = BoundedCloud.connect(
                plugin(ticket.platform),
                account,
                target,
                timeouts,
                self._policy,
                check=check,
                look=self._lease.check_held,
            )
        return self._cloud

    @property
    def _tags(self) -> Tags:
        return Tags(self._ticket.uid, self._store.deployment)

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


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"


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
