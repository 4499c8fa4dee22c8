"""Workers whose clocks are an hour wrong, in both directions: the database's clock alone decides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.integration.test_publish import assert_one_right_image
from tests.proxy import Proxy
from tests.servers.clocks import wrong_clock
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.stack import Stack, Worker, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"
LEASE_SECONDS = 3.0


@pytest.fixture
def stack(tmp_path: Path, redis: RedisServer, postgres: PostgresServer) -> Iterator[Stack]:
    settings = {"database_url": postgres.fresh(), "lease_seconds": LEASE_SECONDS}
    with Stack.in_directory(tmp_path / "data", redis.url, workers=0, **settings) as stack:
        for offset in ("+1h", "-1h"):
            stack.environment = wrong_clock(offset)
            stack.add_worker()
        yield stack


def worker_of(stack: Stack, id: int) -> Worker:
    ticket = stack.store.tickets.get(id)
    assert ticket is not None
    return next(each for each in stack.workers if str(each.process.pid) in (ticket.worker or ""))


def test_only_tickets_of_a_dead_worker_are_taken_over(
    stack: Stack, devcloud: DevCloud, glance: Glance, tmp_path: Path
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(16 * MIB))
    image = stack.add_image(file, id=7)
    with Proxy(devcloud.glance_url, bytes_per_second=2 * MIB) as slow:
        tickets = [stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url)) for _ in range(4)]
        # Much longer than a lease: a worker that trusted its own clock would have taken over tickets by now.
        until(lambda: all(stack.status(each)["percentage"] >= 80 for each in tickets), 60)
        assert {ticket.attempt for ticket in stack.store.tickets.list()} == {1}
        killed = worker_of(stack, tickets[0]["dbId"])
        killed.kill()
        slow.bytes_per_second = None
        for each in tickets:
            assert stack.wait(each, LEASE_SECONDS + 20)["published"]
            assert_one_right_image(glance, each, image)
    assert {ticket.attempt for ticket in stack.store.tickets.list()} <= {1, 2}
    assert worker_of(stack, tickets[0]["dbId"]) is not killed
    # The times that callers and people read come from the database, too.
    made = {ticket.created for ticket in stack.store.tickets.list()}
    entries = [entry.at for each in tickets for entry in stack.store.tickets.history(each["dbId"])]
    assert max(entries) - min(made) < 600
