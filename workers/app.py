"""The Celery app and its settings; see docs/decisions/ for why they are what they are."""

from __future__ import annotations

import warnings
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import setup_logging
from kombu.connection import Connection

from publisher.core.broker import Broker
from publisher.core.settings import Settings
from publisher.services.wakeups import PUBLISH_TASK, QUEUE, REGISTER_TASK
from publisher.telemetry import logs
from workers import messages

messages.install()
# It is about pickled messages, which nobody reads here, and stands ahead of everything that matters.
warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")
settings = Settings.from_environment()

transport_options: dict[str, Any] = {}
if settings.broker.startswith(("redis", "rediss")):
    transport_options = {
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
        # A message is gone from Redis once it is received. Where the connection breaks while tickets are in hand, kombu
        # would acknowledge their messages over that very connection later, which fails with an AttributeError, at which
        # Celery ends the worker (kombu 5.7). The store knows what is to be done without them.
        "ack_emulation": False,
    }


class EagerConnection(Connection):
    """Looks every other second for a broker that is away. Celery does so ever more rarely, in the end twice a minute,
    and has no setting for it: so long would tickets wait once the broker is back."""

    def ensure_connection(self, *arguments: Any, **options: Any) -> Any:
        options = {"interval_start": 1, "interval_step": 1, "interval_max": 2} | options
        return super().ensure_connection(*arguments, **options)  # type: ignore[no-untyped-call]


class Amqp(AMQP):  # type: ignore[misc]  # Celery has no types
    """Celery's own, with that connection."""

    Connection = EagerConnection


app = Celery("publisher", broker=settings.broker, include=["workers.tasks"], amqp=Amqp)
app.conf.update(
    # The ticket store is the truth: no result backend, and a message may be lost or delivered twice.
    task_ignore_result=True,
    task_default_queue=QUEUE.name,
    task_queues=[QUEUE],
    task_routes={PUBLISH_TASK: {"queue": QUEUE.name}, REGISTER_TASK: {"queue": QUEUE.name}},
    task_serializer="json",
    accept_content=["json"],
    # Acknowledged at the end, one message for each free thread: none waits here behind a long upload while another
    # worker is idle. A second delivery, after whatever time-out, finds the ticket leased and does nothing.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # After a reconnection, Celery would raise the reduced count again from the threads of the tasks that end, over a
    # connection that its main thread reads: the worker hears nothing more from RabbitMQ (Celery 5.7).
    worker_enable_prefetch_count_reduction=False,
    # sendfile and TLS release the interpreter's lock, and threads see the request to shut down.
    worker_pool="threads",
    worker_consumer="workers.messages:CarefulConsumer",
    worker_concurrency=settings.worker_concurrency,
    worker_send_task_events=True,
    # RabbitMQ closes the channel of who has not acknowledged within its consumer_timeout: another connection is opened,
    # and the upload goes on. Without this the worker would end.
    broker_channel_error_retry=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=transport_options,
    broker_use_ssl=Broker.of(settings).tls or False,
    worker_redirect_stdouts=False,
)


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _log(loglevel: int, **_: Any) -> None:
    """Celery sets up no logs itself where somebody does it here."""
    logs.configure(settings, level=loglevel)
