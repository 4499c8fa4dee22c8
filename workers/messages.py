"""What a worker receives from the broker and sends to it: Celery's consumer and kombu's Redis channel.

Messages that cannot be read are logged, refused and forgotten, so that no message in the broker can end a worker.
kombu and Celery assume that every writer to the broker follows their format. If one does not, they end the whole
worker, and RabbitMQ hands the same message to the next one. Refusing such a message loses nothing: the ticket store
knows what is to be done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

from amqp import method_framing
from amqp.basic_message import Message as AmqpMessage
from celery.worker.consumer import Consumer
from kombu.transport.redis import Channel, Transport

logger = logging.getLogger(__name__)

_BODY_BYTES_MAX = 64 << 10
"""Our own messages have a few hundred bytes."""
_EVENTS_SECONDS = 0.5
"""How long events for monitors, such as Flower, are collected. Celery sends each by itself. That costs as much CPU as
the ticket store needs for a ticket, and at the moment when its upload begins."""


class BrokenMessage(ValueError):
    """A message that this service cannot have sent."""


class ReadableAmqpMessage(AmqpMessage):  # type: ignore[misc]  # amqp has no types
    """An AMQP message with empty properties if they cannot be read. It then names no task, and is refused."""

    properties: dict[str, Any]

    def _load_properties(self, *arguments: Any) -> Any:
        try:
            return super()._load_properties(*arguments)
        except Exception as error:
            logger.warning("the properties of a message cannot be read: %s", type(error).__name__)
            self.properties = {}
            return None


class ReadingChannel(Channel):
    """Redis channel that skips a message that cannot be parsed: Redis has deleted it already.

    It keeps its client, which is only a view of the pool of connections. kombu makes one for each command, which costs
    several times the command.
    """

    _kept_client: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        # After a lost connection there is a new pool.
        if self._kept_client is None or self._kept_client.connection_pool is not self.pool:
            self._kept_client = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept_client

    def _brpop_read(self, **options: Any) -> Any:
        return self._leave_out(lambda: super(ReadingChannel, self)._brpop_read(**options))  # type: ignore[no-untyped-call]

    def _receive_one(self, client: Any) -> Any:
        return self._leave_out(lambda: super(ReadingChannel, self)._receive_one(client))  # type: ignore[no-untyped-call]

    def _leave_out(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (Empty, *self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:
            logger.warning("skipped a message that cannot be read: %s", type(error).__name__)
            return True


class CarefulConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, which also refuses messages that it cannot handle, and sends events together."""

    _flush_due = 0.0
    """When the collected events will have been sent, by the monotonic clock."""

    def on_send_event_buffered(self) -> None:
        """Have the collected events sent soon. Called from any thread, for each event of a task."""
        now = time.monotonic()
        # Reconnecting to the broker drops timers. Then a later event sets a new one.
        if self.hub and now > self._flush_due:
            self._flush_due = now + 2 * _EVENTS_SECONDS
            self.hub.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self.hub.call_later(_EVENTS_SECONDS, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = 0.0
        self._flush_events()

    def stop(self) -> None:
        self._flush_events()
        super().stop()

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*arguments, **options)

        def careful(message: Any) -> None:
            try:
                _check(message)
                handle(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:
                words = str(error) if isinstance(error, BrokenMessage) else type(error).__name__
                logger.warning("refused a message that is not one of ours: %s", words)
                self._refuse(message)

        return careful

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        logger.warning("refused a message whose body cannot be read: %s", type(exc).__name__)
        self._refuse(message)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        logger.warning("refused a message that names no task")
        self._refuse(message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        logger.warning("refused a message with an unknown task: %.100r", message.headers.get("task"))
        self._refuse(message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        logger.warning("refused a message that Celery considers invalid: %s", type(exc).__name__)
        self._refuse(message)

    def _refuse(self, message: Any) -> None:
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)


def _check(message: Any) -> None:
    """Check that the message looks like one of ours. Raises `BrokenMessage`."""
    size = len(message.body or b"")
    if size > _BODY_BYTES_MAX:
        raise BrokenMessage(f"its body has {size} bytes; the limit is {_BODY_BYTES_MAX}")
    if not isinstance(message.headers, dict):
        raise BrokenMessage("its headers are not a table")
    if message.headers.get("eta"):
        # The worker would keep it in memory and fetch another message in the meantime.
        raise BrokenMessage("it has a start time, but only the ticket store delays work")


def install() -> None:
    """Install these classes in kombu. Call once, before the first connection."""
    # Redis deletes a message once it is received. If the connection breaks while tickets are in progress, kombu would
    # put their messages back over that broken connection, which fails with an AttributeError (kombu 5.7).
    Channel.do_restore = False
    Transport.Channel = ReadingChannel
    method_framing.Message = ReadableAmqpMessage
