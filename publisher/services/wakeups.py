"""Wakes workers. Messages go over connections of kombu, so that the sender needs neither Celery nor workers' code."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError

from publisher.core.asking import Asking, ask
from publisher.core.broker import Broker
from publisher.core.errors import QueueUnavailable
from publisher.core.settings import Settings
from publisher.services.wake_messages import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    PERSISTENT,
    WakeMessage,
    redis_value,
    wake_messages,
)
from publisher.store import Store
from publisher.telemetry.metrics import BROKER_SEND_FAILURES, BROKER_SENDS

QUEUE_NAME = "publisher"
PUBLISH_TASK = "publisher.publish"
REGISTER_TASK = "publisher.register"
CHECK_TASK = "publisher.check"
QUEUE = Queue(QUEUE_NAME, Exchange(QUEUE_NAME, type="direct"), routing_key=QUEUE_NAME)

logger = logging.getLogger(__name__)

Wake = Callable[[int], object]
"""Wakes a worker for the ticket or image with this id: at once, or after the response is sent."""


class Sender(Protocol):
    """Sends wake-up messages. Each method raises `QueueUnavailable`, and then perhaps none was sent."""

    def send(self, *ticket_ids: int) -> None: ...

    def send_image(self, *image_ids: int) -> None: ...

    def send_check(self, *check_ids: int) -> None: ...


class Wakeups:
    """Wakes workers for committed tickets, images and checks.

    If the broker is unavailable, the reconciler wakes them for tickets and images later.
    """

    def __init__(self, store: Store, sender: Sender) -> None:
        self._store = store
        self._sender = sender

    def ticket(self, ticket_id: int) -> Asking[bool]:
        """Wake a worker for a ticket. Return False if the broker is unavailable."""
        try:
            yield from ask(self._send_tickets, ticket_id)
        except QueueUnavailable as error:
            logger.warning("ticket %d was accepted, but no worker was woken: %s", ticket_id, error)
            yield from ask(self._postpone_tickets, ticket_id)
            return False
        return True

    def image(self, image_id: int) -> Asking[bool]:
        """Wake a worker for an image that is to be registered. Return False if the broker is unavailable."""
        try:
            yield from ask(self._send_images, image_id)
        except QueueUnavailable as error:
            logger.warning("image %d is to be registered, but no worker was woken: %s", image_id, error)
            yield from ask(self._postpone_images, image_id)
            return False
        return True

    def check(self, check_id: int) -> Asking[bool]:
        """Wake a worker for a check. Return False if the broker is unavailable: nobody tries again later."""
        try:
            yield from ask(self._send_checks, check_id)
        except QueueUnavailable as error:
            logger.warning("no worker was woken for check %d: %s", check_id, error)
            return False
        return True

    def _send_tickets(self, ids: Sequence[int]) -> Sequence[None]:
        self._sender.send(*ids)
        return [None] * len(ids)

    def _send_images(self, ids: Sequence[int]) -> Sequence[None]:
        self._sender.send_image(*ids)
        return [None] * len(ids)

    def _send_checks(self, ids: Sequence[int]) -> Sequence[None]:
        self._sender.send_check(*ids)
        return [None] * len(ids)

    def _postpone_tickets(self, ids: Sequence[int]) -> Sequence[None]:
        self._store.tickets.woken(*ids, sent=False)
        return [None] * len(ids)

    def _postpone_images(self, ids: Sequence[int]) -> Sequence[None]:
        self._store.registrations.woken(*ids, sent=False)
        return [None] * len(ids)


class WakeQueue:
    """Sends wake-up messages, all of a call in one round trip to Redis. Safe to use from several threads."""

    def __init__(self, broker: Broker, *, timeout_seconds: float) -> None:
        self._broker = broker
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._to_broker: _ToRedis | _ToRabbitmq | None = None

    @classmethod
    def open(cls, settings: Settings) -> WakeQueue:
        return cls(Broker.of(settings), timeout_seconds=settings.send_timeout_seconds)

    def send(self, *ticket_ids: int) -> None:
        """Wake workers for tickets. Raises `QueueUnavailable` after two and a half time-outs at most."""
        self._send(PUBLISH_TASK, ticket_ids)

    def send_image(self, *image_ids: int) -> None:
        """Wake workers for images that are to be registered. Raises `QueueUnavailable` as `send` does."""
        self._send(REGISTER_TASK, image_ids)

    def send_check(self, *check_ids: int) -> None:
        """Wake workers for checks that callers wait for. Raises `QueueUnavailable` as `send` does."""
        self._send(CHECK_TASK, check_ids)

    def _send(self, task: str, ids: Sequence[int]) -> None:
        """Send messages and count them. Raises `QueueUnavailable` as `send` does."""
        try:
            # While one thread waits for a broker that does not answer, the others do not queue up behind it.
            if not self._lock.acquire(timeout=self._timeout_seconds / 2):
                raise QueueUnavailable("the message broker cannot be reached: it has not answered the previous message")
            try:
                self._publish_again(task, ids)
            finally:
                self._lock.release()
        except QueueUnavailable:
            BROKER_SEND_FAILURES.inc(len(ids))
            raise
        BROKER_SENDS.inc(len(ids))

    def _publish_again(self, task: str, ids: Sequence[int]) -> None:
        """Publish messages, over a new connection if the kept one is stale."""
        try:
            self._publish(task, ids)
        except _CONNECTION_ERRORS:
            # The new one shows whether the broker is available. A worker that is woken twice for a ticket claims it
            # once.
            self._drop()
            try:
                self._publish(task, ids)
            except _CONNECTION_ERRORS as error:
                self._drop()
                raise QueueUnavailable(f"the message broker cannot be reached: {_reason(error)}") from None

    def check(self) -> None:
        """Connect to the broker. Raises `QueueUnavailable`."""
        with self._lock:
            self._drop()
            try:
                self._connect()
            except _CONNECTION_ERRORS as error:
                self._drop()
                raise QueueUnavailable(f"the message broker cannot be reached: {_reason(error)}") from None

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._broker.connection(self._timeout_seconds)
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._timeout_seconds)
        return self._connection

    def _publish(self, task: str, ids: Sequence[int]) -> None:
        connection = self._connect()
        if self._to_broker is None:
            QUEUE(connection.default_channel).declare()
            is_redis = connection.transport.driver_type == "redis"
            self._to_broker = _ToRedis(connection) if is_redis else _ToRabbitmq(connection, self._timeout_seconds)
        self._to_broker.send(wake_messages(task, ids))

    def _drop(self) -> None:
        if self._connection is not None:
            try:
                self._connection.release()
            except _CONNECTION_ERRORS:
                logger.debug("closing a broken broker connection failed")
            self._connection = self._to_broker = None


# Messages go to the default exchange, which leads to the queue of that name. The binding of an exchange of our own
# would be lost when Redis restarts, and messages with it, because kombu reconnects by itself.


class _ToRedis:
    """Sends messages to Redis, all in one command."""

    def __init__(self, connection: Connection) -> None:
        channel: Any = connection.default_channel
        # One client for all: making one takes as long as sending some messages. Its pool does not retry by itself.
        self._client = channel.Client(connection_pool=channel.pool)

    def send(self, messages: Sequence[WakeMessage]) -> None:
        self._client.lpush(QUEUE.name, *[redis_value(each, QUEUE.name) for each in messages])


class _ToRabbitmq:
    """Sends messages to RabbitMQ, and waits for its confirmations that it has them."""

    def __init__(self, connection: Connection, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._sent = 0
        self._missing: set[int] = set()
        channel: Any = connection.default_channel
        channel.confirm_select()
        channel.events["basic_ack"].add(self._received)
        channel.events["basic_nack"].add(self._refused)
        self._channel = channel

    def send(self, messages: Sequence[WakeMessage]) -> None:
        """Send messages and wait until all are confirmed. Raises one of `_CONNECTION_ERRORS`."""
        # Before they are sent: some confirmations may come meanwhile.
        self._missing = set(range(self._sent + 1, self._sent + len(messages) + 1))
        self._sent += len(messages)
        for each in messages:
            properties = {"delivery_mode": PERSISTENT, "correlation_id": each.task_id}
            message = self._channel.prepare_message(
                each.body,
                priority=0,
                content_type=CONTENT_TYPE,
                content_encoding=CONTENT_ENCODING,
                headers=each.headers,
                properties=properties,
            )
            self._channel.basic_publish(message, exchange="", routing_key=QUEUE.name, timeout=self._timeout_seconds)
        while self._missing:
            self._connection.drain_events(timeout=self._timeout_seconds)

    def _received(self, tag: int, up_to: bool) -> None:
        self._missing = {each for each in self._missing if each > tag} if up_to else self._missing - {tag}

    def _refused(self, tag: int, up_to: bool) -> None:
        raise KombuError("refused")


def _errors() -> tuple[type[Exception], ...]:
    import amqp.exceptions
    import redis.exceptions

    return (OSError, KombuError, redis.exceptions.RedisError, amqp.exceptions.AMQPError)


_CONNECTION_ERRORS = _errors()


def _reason(error: BaseException) -> str:
    """Return what went wrong, without the broker's URL, which may contain a password."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
