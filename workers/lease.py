"""Hold a ticket: a thread beside the work renews the lease, writes progress and notices a cancel.

The work itself never waits for the database. It leaves the number of bytes sent in `sent`, and calls `check()` often.
Work that stops calling it is stuck: then the lease is no longer renewed, and another worker takes the ticket over.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import Cancelled, DeadlinePassed, LeaseLost, ShuttingDown, Stopped
from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.store.leases import Claim, Leases
from publisher.telemetry.logs import with_context
from workers import metrics
from workers.drain import Drain

logger = logging.getLogger(__name__)

_SAMPLE_SECONDS = 0.5
_SAMPLES_GROWING = 100
"""After this many samples at that distance, samples become rarer and rarer: an upload of a day has some 800."""


class Lease:
    """A context that holds the ticket."""

    def __init__(self, leases: Leases, claim: Claim, settings: Settings, drain: Drain, *, asked: float) -> None:
        """`asked` is when the claim was requested, by the monotonic clock: the store may have been slow."""
        self.claim = claim
        self.sent = 0
        """Bytes of the image sent in this attempt."""
        self._leases = leases
        self._settings = settings
        self._drain = drain
        self._renewed = asked
        self._checked = asked
        self._silent_seconds = settings.stall_seconds + settings.lease_seconds
        self._accepted = asked + claim.ticket.accepted - claim.now
        self._deadline = math.inf
        if settings.deadline_seconds:
            self._deadline = self._accepted + settings.deadline_seconds
        self._lost = False
        self._over = False
        self._cancelled = claim.ticket.state is State.CANCELLING
        self._uploading_since: float | None = None
        self._sampled = 0.0
        self._counted = 0
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=with_context(self._keep), name=f"lease-{claim.ticket.id}", daemon=True)

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
        """Seconds until the ticket's deadline: negative once it has passed, infinite if there is none."""
        return self._deadline - time.monotonic()

    @property
    def seconds_since_acceptance(self) -> float:
        return max(0.0, time.monotonic() - self._accepted)

    def check(self) -> None:
        """Raise `LeaseLost`, `Cancelled`, `DeadlinePassed` or `ShuttingDown` if the work must stop.

        Cheap enough to call often.
        """
        self.check_wanted()
        if self.seconds_left <= 0:
            raise DeadlinePassed

    def check_wanted(self) -> None:
        """Raise as `check` does, but ignore the deadline. For the clean-up after a failure."""
        self.check_held()
        if self._cancelled:
            raise Cancelled
        if self._drain.over:
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
        if time.monotonic() - self._renewed > self._settings.lease_seconds:
            self._lost = True
        return not self._lost

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Keep samples of the progress inside this context: the first, the last, and some hundreds between them.

        Raises `LeaseLost` or `Cancelled` at its beginning.
        """
        began = self._uploading_since = time.monotonic()
        self._write(self.sent, sample=True)
        outcome = "broken_off"
        try:
            yield
            outcome = "complete"
        finally:
            self._uploading_since = None
            platform = self.claim.ticket.platform
            metrics.UPLOAD_SECONDS.labels(platform, outcome).observe(time.monotonic() - began)
            self._count(self.sent)
            # Later steps notice what stops the work, and errors of the store.
            with suppress(Stopped, SQLAlchemyError):
                self._write(self.sent, sample=True)

    def _count(self, sent: int) -> None:
        with self._writing:
            # Fewer than before: the upload has started again.
            more = sent - self._counted if sent >= self._counted else sent
            self._counted = sent
        metrics.UPLOADED_BYTES.labels(self.claim.ticket.platform).inc(more)

    def _write(self, sent: int, *, sample: bool) -> None:
        with self._writing:
            asked = time.monotonic()
            self._leases.renew(self.claim, self._settings.lease_seconds, sent=sent, sample=sample)
            self._renewed = asked
            if sample:
                self._sampled = asked

    def _sample_due(self, now: float) -> bool:
        since = self._uploading_since
        return since is not None and now - self._sampled >= max(_SAMPLE_SECONDS, (now - since) / _SAMPLES_GROWING)

    def _keep(self) -> None:
        written = 0
        while not self._ended.wait(self._settings.progress_seconds):
            if not self._holds():
                return
            asked = time.monotonic()
            if asked - self._checked > self._silent_seconds:
                id = self.claim.ticket.id
                logger.error("ticket %d: the work is stuck: it did not move for %.0f s", id, self._silent_seconds)
                self._lost = True
                return
            sent, due = self.sent, asked - self._renewed >= self._settings.lease_renew_seconds
            self._count(sent)
            try:
                if self._cancelled:
                    if due:
                        self._leases.extend(self.claim, self._settings.lease_seconds)
                        self._renewed = asked
                elif due or sent != written:
                    self._write(sent, sample=self._sample_due(asked))
                    written = sent
                else:
                    self._leases.check(self.claim)
            except Cancelled:
                self._cancelled = True
            except LeaseLost:
                self._lost = True
                return
            except SQLAlchemyError as error:
                # The next turn tries again. If the store stays away, the lease runs out and `check` stops the work.
                metrics.STORE_ERRORS.inc()
                logger.warning("ticket %d: the store did not answer: %s", self.claim.ticket.id, type(error).__name__)
