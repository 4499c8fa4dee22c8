"""A running service registers images over HTTP and publishes them. An interrupted upload leaves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.redis import RedisServer
from tests.stack import PASSWORD, Stack, until

pytestmark = pytest.mark.real

IMAGES = "users/root/appliances/4/images"
CONTENT = os.urandom(3 << 20)
MEMORY = {"targetPlatform": {"name": "memory"}, "login": "x", "password": "x"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    with Stack.in_directory(tmp_path_factory.mktemp("register") / "data", redis.url) as running:
        yield running


def files(stack: Stack) -> set[Path]:
    # Not `rglob`, which fails if a directory is deleted meanwhile.
    return {Path(directory, name) for directory, _, names in os.walk(stack.settings.images) for name in names}


def post(stack: Stack, path: str, document: dict[str, Any]) -> dict[str, Any]:
    answer = stack.call("POST", path, json.dumps(document).encode(), content_type="application/json")
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made


def test_image_is_fetched_published_and_generated_again(stack: Stack) -> None:
    file = stack.settings.images / "generated" / "disk.raw"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    image = post(stack, IMAGES, {"location": "generated/disk.raw", "name": "web", "format": {"name": "raw"}})
    assert stack.wait(image)["complete"]
    found = stack.call("GET", image["uri"]).json
    assert (found["sha256sum"], found["fileSize"]) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    ticket = stack.publish({"imageUri": image["uri"], "credAccount": MEMORY})
    assert stack.wait(ticket)["published"]
    file.write_bytes(CONTENT[:-5])
    again = stack.call("POST", image["uri"], b"")
    assert (again.status, again.json["revision"]) == (201, 2)
    assert stack.wait(image)["complete"]
    assert stack.call("GET", image["uri"]).json["fileSize"] == len(CONTENT) - 5
    assert stack.call("DELETE", image["uri"]).status == 204
    assert file.exists(), "it is the operator's"


def test_uploaded_image_is_registered_and_published(stack: Stack) -> None:
    answer = stack.call("POST", f"{IMAGES}?name=sent&format=raw", CONTENT, content_type="application/octet-stream")
    assert (answer.status, answer.json["status"]["complete"]) == (201, True)
    assert answer.json["sha256sum"] == hashlib.sha256(CONTENT).hexdigest()
    ticket = stack.publish({"imageUri": answer.json["uri"], "credAccount": MEMORY})
    assert stack.wait(ticket)["published"]


def test_interrupted_upload_leaves_nothing(stack: Stack) -> None:
    before, known = files(stack), stack.call("GET", IMAGES).json["total"]
    login = b64encode(f"root:{PASSWORD}".encode()).decode()
    for framing, body in (
        ("Content-Length: 3000000", b"x" * 100_000),
        ("Transfer-Encoding: chunked", b"186a0\r\n" + b"x" * 100_000 + b"\r\n5\r\nx"),
    ):
        with socket.create_connection(("127.0.0.1", stack.settings.intake_port), 10) as connection:
            connection.sendall(
                f"POST /api/{IMAGES}?name=broken HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n"
                f"Content-Type: application/octet-stream\r\n{framing}\r\n\r\n".encode()
                + body
            )
            until(lambda: files(stack) != before, 10)
        until(lambda: files(stack) == before, 10)
    assert stack.call("GET", IMAGES).json["total"] == known
