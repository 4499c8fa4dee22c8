"""Run a ticket: claim it, hold it under a lease, attempt it, and wake the tickets that waited for it.

Knows no Celery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import LeaseLost
from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.services.wakeups import Wakeups
from publisher.store import Claim, Store
from publisher.telemetry import tracing
from publisher.telemetry.logs import bound
from workers import metrics
from workers.attempt import Attempt
from workers.drain import Drain
from workers.lease import TicketLease

logger = logging.getLogger(__name__)


class LeaseFreed(LeaseLost):
    """The lease was lost, and nobody else has the ticket."""


class Runner:
    """Runs tickets. May be called from several threads, one ticket each."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        settings: Settings,
        *,
        worker: str,
        drain: Drain | None = None,
        wakeups: Wakeups | None = None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._settings = settings
        self._worker = worker
        self._drain = drain or Drain(settings.drain_seconds)
        self._wakeups = wakeups
        self._policy = OutboundPolicy.of(settings)

    def run(self, ticket_id: int, *, go_on: bool = False) -> State | None:
        """Claim a ticket and publish it as far as possible. Never raises for what goes wrong with the ticket.

        Returns the ticket's state as this worker left it. Returns None if there was nothing to claim, the lease was
        lost meanwhile, or the store did not answer. With `go_on`, a ticket whose lease was lost is claimed again,
        unless another worker has claimed it by then: after a pause longer than the lease, this may be the only worker.
        """
        if self._drain.begun.is_set():
            return None
        with bound(ticket=ticket_id, worker=self._worker):
            try:
                while True:
                    try:
                        return self._run(ticket_id)
                    except LeaseFreed:
                        if not go_on or self._drain.begun.is_set():
                            return None
            except LeaseLost:
                logger.warning("ticket %d: the lease was lost; another worker has the ticket", ticket_id)
            except SQLAlchemyError as error:
                metrics.STORE_ERRORS.inc()
                # Nothing can be recorded. Once the lease runs out, a worker resumes the ticket where it stands.
                logger.warning("ticket %d: the store did not answer: %s", ticket_id, type(error).__name__)
            return None

    def _run(self, ticket_id: int) -> State | None:
        """Claim the ticket and attempt it. Raises `LeaseLost`, `LeaseFreed` and `SQLAlchemyError`."""
        asked = time.monotonic()
        claim = self._store.leases.claim(ticket_id, self._worker, self._settings.lease_seconds)
        if claim is None:
            return None
        try:
            return self._traced(claim, asked)
        except LeaseLost:
            metrics.LEASES_LOST.labels("holder").inc()
            self._store.leases.give_up(claim)
            logger.warning("ticket %d: the lease was lost; any worker may claim the ticket", ticket_id)
            raise LeaseFreed from None

    def _traced(self, claim: Claim, asked: float) -> State:
        """Attempt the ticket inside a tracing span. Raises `LeaseLost` and `SQLAlchemyError`."""
        ticket = claim.ticket
        attributes: tracing.Attributes = {
            "publisher.ticket": ticket.id,
            "publisher.attempt": ticket.attempt,
            "publisher.platform": ticket.platform,
            "publisher.bytes": ticket.progress.total,
        }
        with (
            bound(attempt=ticket.attempt, request_id=ticket.request_id),
            tracing.span("publish", attributes, traceparent=ticket.traceparent) as span,
        ):
            state = self._attempt(claim, asked)
            if span:
                span.set_attribute("publisher.outcome", state)
            return state

    def _attempt(self, claim: Claim, asked: float) -> State:
        """Attempt the ticket under its lease. Raises `LeaseLost` and `SQLAlchemyError`."""
        ticket_id = claim.ticket.id
        logger.info("ticket %d: claimed, attempt %d", ticket_id, claim.ticket.attempt)
        if claim.taken_over:
            metrics.LEASES_LOST.labels("successor").inc()
        outcome = "lost"
        try:
            with TicketLease(self._store.leases, claim, self._settings, self._drain, asked=asked) as lease:
                attempt = Attempt(self._store, self._vault, self._settings, self._policy, lease)
                outcome = state = attempt.outcome()
        finally:
            metrics.ATTEMPTS.labels(claim.ticket.platform, outcome).inc()
        logger.info("ticket %d: %s", ticket_id, state)
        if state is State.QUEUED and self._drain.over and self._wakeups:
            # The ticket's own message went back to the broker as this worker stopped, and has been consumed by now.
            self._wakeups.ticket(ticket_id)
        self._wake(attempt.waiting)
        return state

    def _wake(self, waiting: Sequence[int]) -> None:
        """Wake the tickets that waited for the slot that is free now. If this fails, the reconciler wakes them."""
        if self._wakeups is None:
            return
        for ticket_id in waiting:
            if self._wakeups.ticket(ticket_id):
                self._store.tickets.woken(ticket_id, sent=True)
