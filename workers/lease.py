"""Hold a claim: a thread beside the work renews the lease, writes progress and notices when the work must stop.

The work itself never waits for the database. It leaves the number of bytes done in `sent`, and calls `check()` often.
Work that stops calling it is stuck: then the lease is no longer renewed, and another worker takes over.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import Cancelled, DeadlinePassed, LeaseLost, ShuttingDown, Stopped
from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.store import Claim, Leases, Step
from publisher.telemetry.logs import with_context
from workers import metrics
from workers.drain import Drain

logger = logging.getLogger(__name__)

_SAMPLE_SECONDS = 0.5
_SAMPLES_GROWING = 100
"""After this many samples at that distance, samples become rarer and rarer: an upload of a day has some 800."""


class Lease:
    """A context that holds the claim of one record: a ticket, or an image that is registered."""

    def __init__(
        self,
        name: str,
        renew: Callable[[], bool],
        settings: Settings,
        *,
        stops: Callable[[], bool],
        silent_seconds: float,
        asked: float,
        deadline: float = math.inf,
    ) -> None:
        """`renew` is called every `progress_seconds`. It says whether it has renewed the lease, or only looked.

        It raises `LeaseLost` or `Cancelled`, and `SQLAlchemyError` if the store did not answer. `name` ("ticket 7")
        begins messages of the log. `stops` says whether this worker must hand its work back. Work that has not called
        `check` for `silent_seconds` is stuck. `asked` is when the claim was requested: the store may have been slow.
        `deadline` is when the work must be done. Both are times of the monotonic clock.
        """
        self.sent = self.total = 0
        """Bytes done in this attempt, and how many there are; 0 if that is not known."""
        self.cancelled = False
        self._name = name
        self._renew = renew
        self._stops = stops
        self._progress_seconds = settings.progress_seconds
        self._lease_seconds = settings.lease_seconds
        self._silent_seconds = silent_seconds
        self._deadline = deadline
        self._renewed = self._checked = asked
        self._lost = False
        self._over = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=with_context(self._keep), name=f"lease of {name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        # An abandoned call must not go on.
        self._over = True

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline: negative once it has passed, infinite if there is none."""
        return self._deadline - time.monotonic()

    def check(self) -> None:
        """Raise `LeaseLost`, `Cancelled`, `ShuttingDown` or `DeadlinePassed` if the work must stop.

        Cheap enough to call often.
        """
        self.check_wanted()
        if self.seconds_left <= 0:
            raise DeadlinePassed

    def check_wanted(self) -> None:
        """Raise as `check` does, but ignore the deadline. For the clean-up after a failure."""
        self.check_held()
        if self.cancelled:
            raise Cancelled
        if self._stops():
            raise ShuttingDown

    def check_held(self) -> None:
        """Raise `LeaseLost` if the lease is lost. For the clean-up, which continues after a cancel."""
        if self._over or not self._holds():
            raise LeaseLost
        self._checked = time.monotonic()

    def _holds(self) -> bool:
        """Return whether the lease still holds.

        Uses this process's own clock first: after a pause longer than the lease, it knows that the lease is lost
        without asking the store.
        """
        if time.monotonic() - self._renewed > self._lease_seconds:
            self._lost = True
        return not self._lost

    def _keep(self) -> None:
        while not self._ended.wait(self._progress_seconds):
            if not self._holds():
                return
            asked = time.monotonic()
            if asked - self._checked > self._silent_seconds:
                logger.error("%s: the work is stuck: it did not move for %.0f s", self._name, self._silent_seconds)
                self._lost = True
                return
            try:
                if self._renew():
                    self._renewed = asked
            except Cancelled:
                self.cancelled = True
            except LeaseLost:
                self._lost = True
                return
            except SQLAlchemyError as error:
                # The next turn tries again. If the store stays away, the lease runs out and `check` stops the work.
                metrics.STORE_ERRORS.inc()
                logger.warning("%s: the store did not answer: %s", self._name, type(error).__name__)


class TicketLease(Lease):
    """The lease of a ticket, which also counts what is uploaded, and keeps samples of the progress."""

    def __init__(self, leases: Leases, claim: Claim, settings: Settings, drain: Drain, *, asked: float) -> None:
        self._accepted = asked + claim.ticket.counts_from - claim.now
        super().__init__(
            f"ticket {claim.ticket.id}",
            self._renew_ticket,
            settings,
            stops=lambda: drain.over,
            silent_seconds=settings.stall_seconds + settings.lease_seconds,
            asked=asked,
            deadline=self._accepted + (settings.deadline_seconds or math.inf),
        )
        self.claim = claim
        self.cancelled = claim.ticket.state is State.CANCELLING
        self._uploads = claim.ticket.state is State.PUBLISHING
        self._leases = leases
        self._renew_seconds = settings.lease_renew_seconds
        self._uploading_since: float | None = None
        self._sampled = 0.0
        self._counted = 0
        self._written = 0
        self._writing = threading.Lock()

    @property
    def seconds_since_acceptance(self) -> float:
        return max(0.0, time.monotonic() - self._accepted)

    @contextmanager
    def uploading(self, *steps: Step) -> Iterator[list[Step]]:
        """Keep samples of the progress inside this context: the first, the last, and some hundreds between them.

        Records `steps` with the first sample, and with the last one those that are added to the list that the context
        returns. Raises `LeaseLost` or `Cancelled` at its beginning, and at its end if there are such steps.
        """
        last: list[Step] = []
        began = self._uploading_since = time.monotonic()
        self._write(self.sent, sample=True, steps=steps)
        outcome = "broken_off"
        try:
            yield last
            outcome = "complete"
        finally:
            self._uploading_since = None
            platform = self.claim.ticket.platform
            metrics.UPLOAD_SECONDS.labels(platform, outcome).observe(time.monotonic() - began)
            self._count(self.sent)
            if outcome != "complete" or not last:
                # Later steps notice what stops the work, and errors of the store.
                with suppress(Stopped, SQLAlchemyError):
                    self._write(self.sent, sample=True)
        if last:
            self._write(self.sent, sample=True, steps=last)

    def _count(self, sent: int) -> None:
        with self._writing:
            # Fewer than before: the upload has started again.
            more = sent - self._counted if sent >= self._counted else sent
            self._counted = sent
        metrics.UPLOADED_BYTES.labels(self.claim.ticket.platform).inc(more)

    def _write(self, sent: int, *, sample: bool, steps: Sequence[Step] = ()) -> None:
        with self._writing:
            asked = time.monotonic()
            self._leases.renew(self.claim, self._lease_seconds, sent=sent, sample=sample, steps=steps)
            self._renewed = asked
            if sample:
                self._sampled = asked

    def _sample_due(self, now: float) -> bool:
        since = self._uploading_since
        return since is not None and now - self._sampled >= max(_SAMPLE_SECONDS, (now - since) / _SAMPLES_GROWING)

    def _renew_ticket(self) -> bool:
        now, sent = time.monotonic(), self.sent
        due = now - self._renewed >= self._renew_seconds
        self._count(sent)
        if self.cancelled or not self._uploads:
            if due:
                self._leases.extend(self.claim, self._lease_seconds)
            return due
        if due or sent != self._written:
            self._write(sent, sample=self._sample_due(now))
            self._written = sent
            return True
        self._leases.check(self.claim)
        return False
