"""Log, refuse and forget messages that cannot be read, so that no message in the broker can end a worker.

kombu and Celery assume that every writer to the broker follows their format. If one does not, they end the whole
worker, and RabbitMQ hands the same message to the next one. Refusing such a message loses nothing: the ticket store
knows what is to be done.
"""

from __future__ import annotations

import logging
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
    """Redis channel that skips a message that cannot be parsed: Redis has deleted it already."""

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
    """Celery's consumer, which also refuses messages that it cannot handle."""

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
