"""Run a worker: the parts that its process consists of, and how it claims and attempts a ticket.

Knows no Celery: tasks.py calls it.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.asking import alone
from publisher.core.cloud_check import CheckResult
from publisher.core.errors import LeaseLost
from publisher.core.image import Image, ImageState
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import installed
from publisher.services.wakeups import WakeQueue, Wakeups
from publisher.store import Claim, Store
from publisher.telemetry import tracing
from publisher.telemetry.logs import bound, with_context
from workers import metrics
from workers.attempt import Attempt
from workers.checker import Checker
from workers.cloud_work import CloudWork
from workers.clouds import plugin
from workers.drain import Drain
from workers.heartbeat import Heartbeat, this_worker
from workers.lease import TicketLease
from workers.monitoring import Consumer, readiness, serve
from workers.published_image import PublishedImageChange
from workers.reconciler import Reconciler, discard_abandoned_files
from workers.registration import Registrar
from workers.sweeper import Sweeper
from workers.webhook_sender import Notifier

logger = logging.getLogger(__name__)
Record = TypeVar("Record")
_SPANS = {State.WITHDRAWING: "withdraw", State.PUBLISHED: "retire"}
_WORK: dict[State, type[CloudWork]] = {
    State.WITHDRAWING: PublishedImageChange,
    State.PUBLISHED: PublishedImageChange,
}
"""What is done with a claimed ticket, by its state. In all others, its image is published."""
_COUNTED = {State.WITHDRAWING: metrics.WITHDRAWALS, State.PUBLISHED: metrics.RETIREMENTS}
"""The names of spans, and what counts attempts, by the state of the ticket that is claimed."""


class LeaseFreed(LeaseLost):
    """The lease was lost, and nobody else has the ticket."""


class Runner:
    """Runs tickets: claims one, holds it under a lease, attempts it, and wakes those that waited for it.

    May be called from several threads, one ticket each.
    """

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
            tracing.span(
                _SPANS.get(ticket.state, "publish"),
                attributes,
                traceparent=ticket.traceparent,
            ) as span,
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
                work = _WORK.get(claim.ticket.state, Attempt)
                attempt = work(self._store, self._vault, self._settings, self._policy, lease)
                outcome = state = attempt.outcome()
        finally:
            counted = _COUNTED.get(claim.ticket.state, metrics.ATTEMPTS)
            counted.labels(claim.ticket.platform, outcome).inc()
        logger.info("ticket %d: %s", ticket_id, state)
        if state in (State.QUEUED, State.WITHDRAWING) and self._drain.over and self._wakeups:
            # The ticket's own message went back to the broker as this worker stopped, and has been consumed by now.
            alone(self._wakeups.ticket(ticket_id))
        self._wake(attempt.waiting)
        return state

    def _wake(self, waiting: Sequence[int]) -> None:
        """Wake the tickets that waited for the slot that is free now. If this fails, the reconciler wakes them."""
        if self._wakeups is None:
            return
        for ticket_id in waiting:
            if alone(self._wakeups.ticket(ticket_id)):
                self._store.tickets.woken(ticket_id, sent=True)


# The process -----------------------------------------------------------------------------------------


class WorkerProcess:
    """What the process of a worker consists of.

    Its parts are created when they are first used, and again if that failed: Celery only logs the errors of its signal
    handlers, so a worker that was started before its database or its key file is there works once they are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._drain = Drain(settings.drain_seconds)
        self._consumer = Consumer()
        self._heartbeat: Heartbeat | None = None

    @cached_property
    def _store(self) -> Store:
        return Store.open(self._settings)

    @cached_property
    def _vault(self) -> Vault:
        return Vault.from_file(self._settings.key_file, production=self._settings.production)

    @cached_property
    def _wakeups(self) -> Wakeups:
        return Wakeups(self._store, WakeQueue.open(self._settings))

    @cached_property
    def _runner(self) -> Runner:
        return Runner(
            self._store, self._vault, self._settings, worker=self._name, drain=self._drain, wakeups=self._wakeups
        )

    @cached_property
    def _registrar(self) -> Registrar:
        return Registrar(self._store, self._settings, worker=self._name, shutting_down=self._drain.begun)

    @cached_property
    def _checker(self) -> Checker:
        return Checker(self._store, self._vault, self._settings, worker=self._name)

    @cached_property
    def _notifier(self) -> Notifier:
        return Notifier(self._store, self._vault, self._settings, holder=self._name, stop=self._drain.begun)

    def prepare(self) -> None:
        """Report at the start, not at the first ticket, if something is not set up, and load the plugins."""
        tracing.configure("worker")
        serve(self._store, self._settings, readiness(self._store, self._consumer, self._drain.begun))
        self._store.check_schema()
        # Left by workers that were killed on this machine: the reconciler may run on another one, which does not see
        # their locks.
        discard_abandoned_files(self._store, self._settings)
        _ = self._runner, self._notifier
        for platform in installed():
            plugin(platform)
        # What is loaded now stays. Searching it for garbage takes 50 ms, at a time when an upload needs the processor.
        gc.collect()
        gc.freeze()

    def begin(self, consumer: Any) -> None:
        """Handle signals, and start what runs beside the tasks. `consumer` is Celery's, which takes the messages."""
        self._drain.listen()
        self._consumer.runs(consumer)
        settings, name, stop = self._settings, self._name, self._drain.begun
        member = this_worker(name, node=consumer.hostname, concurrency=settings.worker_concurrency)
        reconciler = Reconciler(self._store, WakeQueue.open(settings), settings, holder=name, stop=stop)
        sweeper = Sweeper(self._store, self._vault, settings, worker=name, stop=stop)
        with bound(worker=name):
            self._heartbeat = Heartbeat(self._store.fleet, member, settings.heartbeat_seconds, self._drain)
            self._heartbeat.start()
            jobs = {"reconciler": reconciler.run, "sweeper": sweeper.run, "notifier": self._notifier.run}
            for job, run in jobs.items():
                threading.Thread(target=with_context(run), name=job, daemon=True).start()

    def publish(self, ticket_id: int) -> tuple[State | None, Ticket | None]:
        """Publish a ticket. Returns what `Runner.run` returns and, unless it is published, the ticket as it is now."""
        state = self._runner.run(ticket_id, go_on=True)
        return state, None if state is State.PUBLISHED else _read(self._store.tickets.get, ticket_id)

    def register(self, image_id: int) -> tuple[ImageState | None, Image | None]:
        """Register an image. Returns what `Registrar.run` returns and, unless it is ready, the image as it is now."""
        state = self._registrar.run(image_id, go_on=True)
        return state, None if state is ImageState.READY else _read(self._store.images.get, image_id)

    def check(self, check_id: int) -> CheckResult | None:
        """Try out what somebody waits for. Returns what `Checker.run` returns."""
        return self._checker.run(check_id)

    def end(self) -> None:
        """Record in the store that this worker has ended, and send the remaining traces."""
        if self._heartbeat:
            self._heartbeat.stop()
        tracing.close()


def _read(get: Callable[[int], Record | None], id: int) -> Record | None:
    """Read a record, for monitors. Returns None if it cannot be read."""
    try:
        return get(id)
    except SQLAlchemyError:
        return None
