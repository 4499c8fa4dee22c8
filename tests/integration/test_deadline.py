"""A ticket that is not published by its deadline fails, and leaves nothing in the cloud."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.proxy import Proxy
from tests.records import put_back
from tests.servers.redis import RedisServer
from tests.stack import Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"


def test_an_upload_is_stopped_at_the_deadline(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(24 * MIB))
    with (
        Stack.in_directory(tmp_path / "data", redis.url, deadline_seconds=5.0) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=1 * MIB) as slow,
    ):
        stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(ticket)["percentage"] >= 5, 30)
        slow.bytes_per_second = 0.2 * MIB
        status = stack.wait(ticket, 15)
        assert status["error"]
        assert status["errorMessage"] == "given up: not published within 5 s of its acceptance"
        assert glance.images(ticket) == []


def test_a_ticket_past_its_deadline_fails_when_a_worker_starts(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(MIB))
    with Stack.in_directory(tmp_path / "data", redis.url, workers=0) as stack:
        stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI))
        put_back(stack.store, ticket["dbId"], accepted=stack.settings.deadline_seconds + 1)
        stack.add_worker()
        assert "not published within 24 h" in stack.wait(ticket, 15)["errorMessage"]
        assert glance.images() == []
