"""What a worker sends to the broker beside its messages: clients of Redis, and events for monitors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from redis import ConnectionPool, Redis

from workers.messages import CarefulConsumer, ReadingChannel


class Hub:
    """Celery's event loop, with time passing by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        assert 0 < seconds <= 1
        self.later.append(call)

    def run(self, calls: list[Callable[[], None]]) -> None:
        while calls:
            calls.pop(0)()


class Collecting(CarefulConsumer):
    def __init__(self) -> None:
        self.hub = Hub()
        self.event_dispatcher = Mock()

    @property
    def sent(self) -> int:
        return int(self.event_dispatcher.flush.call_count)


def test_events_that_come_together_are_sent_together() -> None:
    consumer = Collecting()
    for _ in range(3):
        consumer.on_send_event_buffered()
    consumer.hub.run(consumer.hub.soon)
    assert consumer.sent == 0
    consumer.hub.run(consumer.hub.later)
    assert consumer.sent == 1
    consumer.on_send_event_buffered()
    consumer.hub.run(consumer.hub.soon)
    consumer.hub.run(consumer.hub.later)
    assert consumer.sent == 2


def test_events_are_sent_after_a_timer_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Collecting()
    consumer.on_send_event_buffered()
    consumer.hub.run(consumer.hub.soon)
    consumer.hub.later.clear()  # a reconnection to the broker
    monkeypatch.setattr("workers.messages.time.monotonic", lambda: 1e12)
    consumer.on_send_event_buffered()
    consumer.hub.run(consumer.hub.soon)
    consumer.hub.run(consumer.hub.later)
    assert consumer.sent == 1


def test_last_events_are_sent_before_the_worker_stops() -> None:
    consumer = Collecting()
    order: list[str] = []
    consumer.event_dispatcher.flush.side_effect = lambda: order.append("events")
    consumer.blueprint = Mock()
    consumer.blueprint.stop.side_effect = lambda _: order.append("stop")
    consumer.stop()
    assert order == ["events", "stop"]


def test_client_of_redis_is_kept_as_long_as_its_connections() -> None:
    class Channel(ReadingChannel):
        Client = Redis
        pool: Any = ConnectionPool()

        def __init__(self) -> None: ...

        def __del__(self) -> None: ...

    channel = Channel()
    first = channel._create_client()
    assert channel._create_client() is first
    channel.pool = ConnectionPool()
    assert channel._create_client() is not first
    assert channel._create_client().connection_pool is channel.pool
