"""The tasks and signal handlers that Celery calls. `WorkerProcess` does the work."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_init, worker_ready, worker_shutdown

from publisher.services.wakeups import CHECK_TASK, PUBLISH_TASK, REGISTER_TASK
from workers.app import app, settings
from workers.celery_events import Message, check_result, image_result, ticket_result
from workers.runner import WorkerProcess

_process: WorkerProcess
"""Created when Celery starts a worker, before the first task."""


@app.task(name=PUBLISH_TASK, Request=Message)  # type: ignore[untyped-decorator]  # Celery has no types
def publish(ticket_id: int) -> str:
    """Publish one ticket as far as possible."""
    return ticket_result(*_process.publish(ticket_id))


@app.task(name=REGISTER_TASK, Request=Message)  # type: ignore[untyped-decorator]
def register(image_id: int) -> str:
    """Register one image as far as possible."""
    return image_result(*_process.register(image_id))


@app.task(name=CHECK_TASK, Request=Message)  # type: ignore[untyped-decorator]
def check(check_id: int) -> str:
    """Try out what somebody waits for."""
    return check_result(_process.check(check_id))


@worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    global _process
    _process = WorkerProcess(settings)
    _process.prepare()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(sender: Any, **_: Any) -> None:
    _process.begin(sender)


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _ended(**_: Any) -> None:
    _process.end()
