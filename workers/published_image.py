"""What happens to a published image: it is withdrawn, or hidden or renamed because a newer image replaces it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import (
    ConfigurationError,
    DeadlinePassed,
    InvalidRequest,
    LeaseLost,
    PermanentCloudError,
    Reason,
    ShuttingDown,
    TransientCloudError,
)
from publisher.core.ticket import Older, State
from workers import metrics
from workers.backoff import duration_words, retry_delay
from workers.cloud_work import CloudWork
from workers.clouds.base import Tagged

logger = logging.getLogger(__name__)


class PublishedImageChange(CloudWork):
    """One attempt to withdraw, hide or rename the image of a claimed ticket."""

    def _work(self) -> State:
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
        words = f"given up after {duration_words(self._settings.deadline_seconds)}"
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
