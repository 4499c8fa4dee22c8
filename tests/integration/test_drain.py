"""A worker that drains finishes short uploads. Another worker takes over the rest within seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.stack import Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"

DRAIN_SECONDS = 10.0
"""Enough for the rest of the short upload, but not for the long one, which takes 48 s."""


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param).url)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "image.raw"
    file.write_bytes(os.urandom(24 * MIB))
    return file


def test_a_draining_worker_ends_short_uploads_and_hands_back_long_ones(
    tmp_path: Path, broker: str, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with (
        Stack.in_directory(tmp_path / "data", broker, drain_seconds=DRAIN_SECONDS) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as short,
        Proxy(devcloud.glance_url, bytes_per_second=MIB // 2) as long,
    ):
        stack.add_image(file, id=7)
        ending = stack.publish(publish_body(devcloud, URI, account__glanceUrl=short.url))
        moving = stack.publish(publish_body(devcloud, URI, account__glanceUrl=long.url))
        until(lambda: all(stack.status(each)["percentage"] >= 5 for each in (ending, moving)), 30)
        another = stack.add_worker()
        worker = stack.workers[0]
        worker.process.terminate()
        short.bytes_per_second = None
        assert worker.process.wait((DRAIN_SECONDS + 5) * PATIENCE) == 0
        assert stack.status(ending)["published"]
        assert stack.store.tickets.get(ending["dbId"]).attempt == 1  # type: ignore[union-attr]
        long.bytes_per_second = None
        assert stack.wait(moving, 20)["published"]
        ticket = stack.store.tickets.get(moving["dbId"])
        assert ticket is not None
        assert ticket.attempt == 1, "an attempt that was handed back does not count"
        assert str(another.process.pid) in (ticket.worker or "")
        for each in (ending, moving):
            (image,) = glance.images(each)
            assert (image["status"], image["size"]) == ("active", 24 * MIB)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda each: each.name)
def test_a_second_signal_makes_a_worker_hand_everything_back_at_once(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance, file: Path, second: signal.Signals
) -> None:
    with (
        Stack.in_directory(tmp_path / "data", redis.url, drain_seconds=60.0) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=1 * MIB) as slow,
    ):
        stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(ticket)["percentage"] >= 5, 30)
        worker = stack.workers[0]
        worker.process.terminate()
        before = stack.status(ticket)["bytesLoaded"]
        until(lambda: stack.status(ticket)["bytesLoaded"] > before, 10)
        waiting = stack.publish(publish_body(devcloud, URI))
        worker.signal(second)
        assert worker.process.wait(5 * PATIENCE) == 0
        for each in (ticket, waiting):
            now = stack.store.tickets.get(each["dbId"])
            assert now is not None
            assert (now.state, now.attempt) == (State.QUEUED, 0), "nothing new is begun, nothing counts"


def test_an_idle_worker_does_not_wait_for_the_drain(tmp_path: Path, broker: str) -> None:
    with Stack.in_directory(tmp_path / "data", broker, drain_seconds=3600.0) as stack:
        stack.workers[0].process.terminate()
        assert stack.workers[0].process.wait(10 * PATIENCE) == 0
