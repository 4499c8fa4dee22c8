"""A withdrawal with a real Glance at every phase: at the end nothing is there, or the ticket says what is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.stack import Answer, Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"


@pytest.fixture
def stack(tmp_path: Path, redis: RedisServer) -> Iterator[Stack]:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(24 * MIB))
    with Stack.in_directory(tmp_path / "data", redis.url) as running:
        running.add_image(file, id=7)
        yield running


def published(stack: Stack, devcloud: DevCloud, **changes: Any) -> dict[str, Any]:
    ticket = stack.publish(publish_body(devcloud, URI, **changes))
    assert stack.wait(ticket)["published"]
    return ticket


def withdraw(stack: Stack, ticket: dict[str, Any], devcloud: DevCloud, **changes: Any) -> Answer:
    account = publish_body(devcloud, URI, **changes)["credAccount"]
    path = f"{ticket['uri']}/withdraw"
    return stack.call("POST", path, json.dumps(account).encode(), content_type="application/json")


def test_a_withdrawn_image_is_gone(stack: Stack, devcloud: DevCloud, glance: Glance) -> None:
    ticket, other = published(stack, devcloud), published(stack, devcloud)
    answers = [withdraw(stack, ticket, devcloud) for _ in range(2)]
    assert [each.status for each in answers] == [200, 200]
    assert not answers[0].json["published"]
    status = stack.wait(ticket)
    assert (status["complete"], status["published"]) == (True, False)
    assert glance.images(ticket) == []
    assert [each["status"] for each in glance.images(other)] == ["active"]
    assert withdraw(stack, ticket, devcloud).json == status
    assert stack.call("DELETE", ticket["uri"]).status == 204


@pytest.mark.parametrize("percentage", [0, 40])
def test_a_withdrawal_during_the_publication_cancels_it(
    stack: Stack, devcloud: DevCloud, glance: Glance, percentage: int
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(ticket)["percentage"] >= percentage, 30)
        assert [withdraw(stack, ticket, devcloud).status for _ in range(2)] == [200, 200]
        assert stack.wait(ticket)["cancelled"]
    assert glance.images(ticket) == []


def test_a_withdrawal_while_no_worker_runs_takes_effect_when_one_starts(
    stack: Stack, devcloud: DevCloud, glance: Glance
) -> None:
    ticket = published(stack, devcloud)
    stack.workers[0].kill()
    assert withdraw(stack, ticket, devcloud).status == 200
    assert len(glance.images(ticket)) == 1
    stack.add_worker()
    assert not stack.wait(ticket)["published"]
    assert glance.images(ticket) == []


def test_a_withdrawal_while_glance_is_away_takes_effect_when_it_is_back(
    stack: Stack, devcloud: DevCloud, glance: Glance
) -> None:
    with Proxy(devcloud.glance_url) as proxy:
        ticket = published(stack, devcloud, account__glanceUrl=proxy.url)
        proxy.stall()
        assert withdraw(stack, ticket, devcloud, account__glanceUrl=proxy.url).status == 200
        until(lambda: proxy.waiting_for_new >= 1, 30)
        stack.workers[0].kill()
        stack.add_worker()
        proxy.resume()
        assert not stack.wait(ticket)["published"]
    assert glance.images(ticket) == []


def test_a_protected_image_stays_published_and_the_ticket_says_so(
    stack: Stack, devcloud: DevCloud, glance: Glance
) -> None:
    ticket = published(stack, devcloud)
    (image,) = glance.images(ticket)
    protect(glance, image["id"], protected=True)
    assert withdraw(stack, ticket, devcloud).status == 200
    status = stack.wait(ticket)
    assert status["published"]
    assert "not withdrawn: " in status["message"]
    assert f"image {image['id']} is protected; lift the protection first" in status["message"]
    assert "role" not in status["message"]
    assert stack.call("GET", ticket["uri"]).json["cloudId"] == image["id"]
    protect(glance, image["id"], protected=False)
    assert withdraw(stack, ticket, devcloud).status == 200
    until(lambda: stack.store.tickets.list()[0].state is State.WITHDRAWN, 30)
    assert glance.images(ticket) == []


def protect(glance: Glance, image_id: str, *, protected: bool) -> None:
    glance.rest("PATCH", f"/v2/images/{image_id}", [{"op": "replace", "path": "/protected", "value": protected}])
