"""What operators see of one publication, from the POST to the last byte: real processes, a real cloud."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.servers.redis import RedisServer
from tests.stack import Stack

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"


@pytest.fixture
def glance(devcloud: DevCloud) -> Iterator[Glance]:
    glance = Glance(devcloud)
    yield glance
    for image in glance.images():
        glance.delete(image["id"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(4 << 20))
    return file


def publish(stack: Stack, body: dict[str, Any], request_id: str) -> dict[str, Any]:
    """The ticket, once it has ended."""
    answer = stack.call(
        "POST",
        "users/root/appliances/4/pimages",
        json.dumps(body).encode(),
        content_type="application/json",
        headers={"X-Request-Id": request_id},
    )
    assert (answer.status, answer.headers["X-Request-Id"]) == (201, request_id)
    ticket: dict[str, Any] = answer.json
    stack.wait(ticket)
    return ticket


def test_one_request_is_followed_through_the_logs(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    settings: dict[str, Any] = {"log_format": "json", "access_log": True}
    with Stack.in_directory(tmp_path / "data", redis.url, **settings) as stack:
        stack.add_image(file, id=7)
        ticket = publish(stack, publish_body(devcloud, URI), "followed-1")
        worker = stack.store.tickets.get(ticket["dbId"]).worker  # type: ignore[union-attr]  # it is there
    logs = {each.name: [json.loads(line) for line in each.read_text().splitlines() if line.startswith("{")]
            for each in stack.logs.iterdir()}  # fmt: skip
    followed = {
        name: [each for each in lines if each.get("request_id") == "followed-1"] for name, lines in logs.items()
    }
    posted = [each["message"] for each in followed["intake.log"]]
    assert any("POST /api/users/root/appliances/4/pimages" in each for each in posted), posted
    done = followed["worker0.log"]
    assert [each["message"] for each in done] == [
        f"ticket {ticket['dbId']}: claimed, attempt 1",
        f"ticket {ticket['dbId']}: published",
    ]
    assert all((each["ticket"], each["attempt"], each["worker"]) == (ticket["dbId"], 1, worker) for each in done)
    for name, lines in logs.items():
        plain = [line for line in (stack.logs / name).read_text().splitlines() if not line.startswith("{")]
        # What uvicorn says before it has loaded the app, where nobody told it how; and Celery's banner.
        assert all("INFO:  " in line or name == "worker0.log" for line in plain), plain
        assert lines
