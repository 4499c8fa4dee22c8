"""The tasks and signal handlers that Celery calls, and the worker's process that they work for."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from celery.signals import worker_init, worker_ready, worker_shutdown
from sqlalchemy.exc import SQLAlchemyError

from publisher.core.image import ImageState
from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.files import unfinished
from publisher.platforms.platform import installed
from publisher.services.wakeups import PUBLISH_TASK, REGISTER_TASK, WakeQueue, Wakeups
from publisher.store import Member, Store
from publisher.telemetry import tracing
from publisher.telemetry.logs import bound, with_context
from publisher.version import __version__
from workers.app import app, settings
from workers.celery_events import Message, image_result, ticket_result
from workers.clouds import plugin
from workers.drain import Drain
from workers.heartbeat import Heartbeat
from workers.monitoring import Consumer, readiness, serve
from workers.reconciler import Reconciler
from workers.registration import Registrar
from workers.runner import Runner
from workers.sweeper import Sweeper
from workers.webhook_sender import Notifier

Record = TypeVar("Record")


class WorkerProcess:
    """What the process of a worker consists of.

    Its parts are created when they are first used, and again if that failed: Celery only logs the errors of its signal
    handlers, so a worker that was started before its database or its key file is there works once they are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._host = socket.gethostname()
        self._name = f"{self._host}-{os.getpid()}"
        self._drain = Drain(settings.drain_seconds)
        self._consumer = Consumer()
        self._heartbeat: Heartbeat | None = None

    @cached_property
    def store(self) -> Store:
        return Store.open(self._settings)

    @cached_property
    def _vault(self) -> Vault:
        return Vault.from_file(self._settings.key_file, production=self._settings.production)

    @cached_property
    def _wakeups(self) -> Wakeups:
        return Wakeups(self.store, WakeQueue.open(self._settings))

    @cached_property
    def runner(self) -> Runner:
        return Runner(
            self.store, self._vault, self._settings, worker=self._name, drain=self._drain, wakeups=self._wakeups
        )

    @cached_property
    def registrar(self) -> Registrar:
        return Registrar(self.store, self._settings, worker=self._name, shutting_down=self._drain.begun)

    @cached_property
    def _notifier(self) -> Notifier:
        return Notifier(self.store, self._vault, self._settings, holder=self._name, stop=self._drain.begun)

    def prepare(self) -> None:
        """Report at the start, not at the first ticket, if something is not set up, and load the plugins."""
        serve(self.store, self._settings, readiness(self.store, self._consumer, self._drain))
        self.store.check_schema()
        # Left by workers that were killed on this machine: the reconciler may run on another one, which does not see
        # their locks.
        unfinished.discard_abandoned(self._settings.images, self.store.images.has_file)
        _ = self.runner, self._notifier
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
        member = Member(name, self._host, os.getpid(), consumer.hostname, __version__, settings.worker_concurrency)
        reconciler = Reconciler(self.store, WakeQueue.open(settings), settings, holder=name, stop=stop)
        sweeper = Sweeper(self.store, self._vault, settings, worker=name, stop=stop)
        with bound(worker=name):
            self._heartbeat = Heartbeat(self.store.fleet, member, settings.heartbeat_seconds, self._drain)
            self._heartbeat.start()
            jobs = {"reconciler": reconciler.run, "sweeper": sweeper.run, "notifier": self._notifier.run}
            for job, run in jobs.items():
                threading.Thread(target=with_context(run), name=job, daemon=True).start()

    def end(self) -> None:
        """Record in the store that this worker has ended."""
        if self._heartbeat:
            self._heartbeat.stop()


_process: WorkerProcess
"""Created when Celery starts a worker, before the first task."""


@app.task(name=PUBLISH_TASK, Request=Message)  # type: ignore[untyped-decorator]  # Celery has no types
def publish(ticket_id: int) -> str:
    """Publish one ticket as far as possible."""
    state = _process.runner.run(ticket_id, go_on=True)
    return ticket_result(state, None if state is State.PUBLISHED else _read(_process.store.tickets.get, ticket_id))


@app.task(name=REGISTER_TASK, Request=Message)  # type: ignore[untyped-decorator]
def register(image_id: int) -> str:
    """Register one image as far as possible."""
    state = _process.registrar.run(image_id, go_on=True)
    return image_result(state, None if state is ImageState.READY else _read(_process.store.images.get, image_id))


def _read(get: Callable[[int], Record | None], id: int) -> Record | None:
    """Read a record, for monitors. Returns None if it cannot be read."""
    try:
        return get(id)
    except SQLAlchemyError:
        return None


@worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    global _process
    tracing.configure("worker")
    _process = WorkerProcess(settings)
    _process.prepare()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(sender: Any, **_: Any) -> None:
    _process.begin(sender)


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _ended(**_: Any) -> None:
    _process.end()
    tracing.close()
