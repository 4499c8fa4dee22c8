"""In production mode, no caller can make the service connect to an inner address."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.servers.answering import redirecting, serving
from tests.servers.listening import listening
from tests.servers.redis import RedisServer
from tests.stack import Answer, Stack

pytestmark = pytest.mark.real

PATH = "users/root/appliances/4/pimages"


def body(keystone_url: str, **changes: Any) -> bytes:
    account = {"@type": "CredAccountOpenStack", "keystoneUrl": keystone_url, "login": "joe", "password": "hunter2"}
    made = {"imageUri": "users/root/appliances/4/images/7", "credAccount": account, "keystoneProject": "t"}
    return json.dumps(made | changes).encode()


def test_the_service_does_not_connect_to_inner_addresses(redis: RedisServer, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"a disk" * 1000)
    guarded = Stack.in_directory(tmp_path / "data", redis.url, production=True, outbound_allow="127.0.0.2")

    def post(keystone_url: str) -> Answer:
        return guarded.call("POST", PATH, body(keystone_url), content_type="application/json")

    with listening() as inner, listening("::1", family=socket.AF_INET6) as inner6, guarded as stack:
        stack.add_image(disk, id=7)
        for url, words in {
            "http://169.254.169.254/": "'169.254.169.254' is a metadata address",
            f"http://[::1]:{inner6.port}/": "'::1' is a loopback address",
            f"http://localhost:{inner.port}/": "'localhost' resolves to a loopback address",
        }.items():
            answer = post(url)
            assert answer.status == 400
            message = answer.json["localizedErrorMsg"]["message"]
            assert message.startswith(f"credAccount.keystoneUrl: {words}, which this installation does not connect to")
        assert stack.store.tickets.list() == []
        # The intake cannot know where a server redirects to: the worker refuses to follow.
        with serving(redirecting(f"http://localhost:{inner.port}/v3")) as outside:
            answer = post(outside)
            assert answer.status == 201
            status = stack.wait(answer.json)
        assert status["error"]
        assert status["errorMessage"].startswith("'localhost' resolves to a loopback address, which this installation")
    assert (inner.connections, inner6.connections) == ([], [])
