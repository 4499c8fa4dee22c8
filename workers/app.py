"""The Celery app and its settings; docs/decisions/ explains them."""

from __future__ import annotations

import warnings
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import setup_logging
from kombu.connection import Connection

from publisher.core.broker import Broker
from publisher.core.settings import Settings
from publisher.services.wakeups import CHECK_TASK, PUBLISH_TASK, QUEUE, REGISTER_TASK
from publisher.telemetry import logs
from workers import messages

messages.install()
# The warning is about pickled messages, which nothing here reads, and would hide what matters.
warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")
settings = Settings.from_environment()

transport_options: dict[str, Any] = {}
if settings.broker.startswith(("redis", "rediss")):
    transport_options = {
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
        # Redis deletes a message once it is received. If the connection breaks while tickets are in progress, kombu
        # would later acknowledge their messages over that broken connection, which fails with an AttributeError, and
        # Celery then ends the worker (kombu 5.7). The store knows what is to be done without the messages.
        "ack_emulation": False,
    }


class EagerConnection(Connection):
    """Tries to reconnect to the broker every two seconds.

    Celery tries less and less often, in the end twice a minute, and has no setting for it. Tickets would wait that long
    once the broker is back.
    """

    def ensure_connection(self, *arguments: Any, **options: Any) -> Any:
        options = {"interval_start": 1, "interval_step": 1, "interval_max": 2} | options
        return super().ensure_connection(*arguments, **options)  # type: ignore[no-untyped-call]


class Amqp(AMQP):  # type: ignore[misc]  # Celery has no types
    """Celery's AMQP, which uses `EagerConnection`."""

    Connection = EagerConnection


app = Celery("publisher", broker=settings.broker, include=["workers.tasks"], amqp=Amqp)
app.conf.update(
    # The ticket store is the truth: there is no result backend, and messages may be lost or delivered twice.
    task_ignore_result=True,
    task_default_queue=QUEUE.name,
    task_queues=[QUEUE],
    task_routes={task: {"queue": QUEUE.name} for task in (PUBLISH_TASK, REGISTER_TASK, CHECK_TASK)},
    task_serializer="json",
    accept_content=["json"],
    # Acknowledge at the end, and prefetch one message for each free thread, so that none waits here behind a long
    # upload while another worker is idle. A second delivery, after any time-out, finds the ticket leased and does
    # nothing.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # After a reconnection, Celery would raise the reduced count again from the threads of finishing tasks, over a
    # connection that its main thread reads: then the worker receives nothing more from RabbitMQ (Celery 5.7).
    worker_enable_prefetch_count_reduction=False,
    # sendfile and TLS release the interpreter's lock, and threads see the request to shut down.
    worker_pool="threads",
    worker_consumer="workers.messages:CarefulConsumer",
    worker_concurrency=settings.worker_concurrency,
    worker_send_task_events=True,
    # RabbitMQ closes the channel of a consumer that does not acknowledge within consumer_timeout. With this setting,
    # the worker opens another connection and the upload continues; without it, the worker would end.
    broker_channel_error_retry=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=transport_options,
    broker_use_ssl=Broker.of(settings).tls or False,
    worker_redirect_stdouts=False,
)


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _log(loglevel: int, **_: Any) -> None:
    """Set up our own logs. Celery sets up none if this signal has a receiver."""
    logs.configure(settings, level=loglevel)
