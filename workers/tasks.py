"""The tasks and signal handlers that Celery calls: a few lines each."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from celery.signals import worker_init, worker_ready, worker_shutdown
from sqlalchemy.exc import SQLAlchemyError

from publisher.core.vault import Vault
from publisher.files import unfinished
from publisher.platforms.registry import installed
from publisher.services.wakeups import PUBLISH_TASK, REGISTER_TASK, WakeQueue, Wakeups
from publisher.store import Store
from publisher.store.fleet import Member
from publisher.telemetry import tracing
from publisher.telemetry.logs import bound, with_context
from publisher.version import __version__
from workers.app import app, settings
from workers.celery_events import Message, tell_image, tell_ticket
from workers.clouds import plugin
from workers.drain import Drain
from workers.heartbeat import Heartbeat
from workers.monitoring import Consumer, readiness, serve
from workers.reconciler import Reconciler
from workers.registration import Registrar
from workers.runner import Runner
from workers.sweeper import Sweeper
from workers.webhook_sender import Notifier

drain = Drain(settings.drain_seconds)
HOST = socket.gethostname()
WORKER = f"{HOST}-{os.getpid()}"
consumer = Consumer()
heartbeats: list[Heartbeat] = []
"""The heartbeat of this process; empty until the worker is ready."""
Found = TypeVar("Found")


@cache
def store() -> Store:
    return Store.open(settings)


@cache
def queue() -> WakeQueue:
    return WakeQueue.open(settings)


@cache
def vault() -> Vault:
    return Vault.from_file(settings.key_file, production=settings.production)


@cache
def runner() -> Runner:
    return Runner(store(), vault(), settings, worker=WORKER, drain=drain, wakeups=Wakeups(store(), queue()))


@cache
def registrar() -> Registrar:
    return Registrar(store(), settings, worker=WORKER, shutting_down=drain.begun)


@cache
def notifier() -> Notifier:
    return Notifier(store(), vault(), settings, holder=WORKER, stop=drain.begun)


@app.task(name=PUBLISH_TASK, Request=Message)  # type: ignore[untyped-decorator]  # Celery has no types
def publish(ticket_id: int) -> str:
    """Publish one ticket as far as possible."""
    state = runner().run(ticket_id, go_on=True)
    return tell_ticket(state, _read(store().tickets.get, ticket_id))


@app.task(name=REGISTER_TASK, Request=Message)  # type: ignore[untyped-decorator]
def register(image_id: int) -> str:
    """Register one image as far as possible."""
    state = registrar().run(image_id, go_on=True)
    return tell_image(state, _read(store().images.get, image_id))


def _read(get: Callable[[int], Found | None], id: int) -> Found | None:
    """Read a record, for monitors. Returns None if it cannot be read."""
    try:
        return get(id)
    except SQLAlchemyError:
        return None


@worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    """Fail at the start, not at the first ticket, if something is not set up.

    Load the plugins before the first ticket needs them.
    """
    tracing.configure("worker")
    serve(store(), settings, readiness(store(), consumer, drain))
    store().check_schema()
    # Left by workers that were killed on this machine: the reconciler may run on another one, which does not see their
    # locks.
    unfinished.discard_abandoned(settings.images, store().images.has_file)
    runner()
    notifier()
    for platform in installed():
        plugin(platform)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(sender: Any, **_: Any) -> None:
    drain.listen()
    consumer.runs(sender)
    member = Member(WORKER, HOST, os.getpid(), sender.hostname, __version__, settings.worker_concurrency)
    reconciler = Reconciler(store(), WakeQueue.open(settings), settings, holder=WORKER, stop=drain.begun)
    sweeper = Sweeper(store(), vault(), settings, worker=WORKER, stop=drain.begun)
    with bound(worker=WORKER):
        heartbeats.append(Heartbeat(store().fleet, member, settings.heartbeat_seconds, drain))
        heartbeats[-1].start()
        threading.Thread(target=with_context(reconciler.run), name="reconciler", daemon=True).start()
        threading.Thread(target=with_context(sweeper.run), name="sweeper", daemon=True).start()
        threading.Thread(target=with_context(notifier().run), name="notifier", daemon=True).start()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _ended(**_: Any) -> None:
    for each in heartbeats:
        each.stop()
    tracing.close()
