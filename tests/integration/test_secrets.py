"""The cloud's password is only in the cloud and, sealed, in the ticket store."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from redis.client import Monitor
from redis.connection import ConnectionPool, UnixDomainSocketConnection
from redis.exceptions import ConnectionError

from publisher.core.settings import Settings
from publisher.devcloud.cloud import DevCloud
from publisher.store import Store
from tests.clouds import publish_body
from tests.installation import Installation, running
from tests.patience import PATIENCE
from tests.servers.process import free_port

pytestmark = pytest.mark.real

WRONG = "a-wrong-password-of-tests"


class Watched:
    """Records every command that the Redis of an installation gets from now on."""

    def __init__(self, directory: Path) -> None:
        self.seen: list[str] = []
        socket = Settings(data_dir=directory).embedded_redis_socket
        self._monitor = Monitor(ConnectionPool(UnixDomainSocketConnection, path=str(socket), socket_timeout=None))
        self._monitor.__enter__()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):  # the server stops at the end
            for command in self._monitor.listen():
                self.seen.append(command["command"])


def get(port: int, path: str, login: str, body: bytes | None = None, accept: str = "*/*") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * PATIENCE)
    headers = {"Authorization": "Basic " + b64encode(login.encode()).decode(), "Accept": accept}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers)
        answer = connection.getresponse()
        assert answer.status in (200, 201), (path, answer.status)
        return answer.read()
    finally:
        connection.close()


def test_the_clouds_password_is_in_no_file_message_log_or_answer(tmp_path: Path, devcloud: DevCloud) -> None:
    installation = Installation(tmp_path / "data", free_port(), free_port())
    right = devcloud.password("uploader")
    said: dict[str, bytes] = {}
    with running(installation) as up:
        redis = Watched(installation.directory)
        file = tmp_path / "image.raw"
        file.write_bytes(bytes(range(256)) * 4096)
        given = "--user", "root", "--appliance", "4", "--format", "raw"
        assert installation.run("images", "add", str(file), *given).returncode == 0
        root = f"root:{installation.password('root')}"
        base = "/api/users/root/appliances/4"
        for changes in ({}, {"account__password": WRONG}):
            body = publish_body(devcloud, "users/root/appliances/4/images/1", **changes)
            ticket = json.loads(
                get(installation.intake_port, f"{base}/pimages", root, json.dumps(body).encode(), "application/json")
            )
            installation.run("status", str(ticket["dbId"]), "--wait")
            for accept in ("application/xml", "application/json"):
                for path in (f"{base}/pimages", f"{base}/pimages/statuses", f"/api/{ticket['uri']}",
                             f"/api/{ticket['statusUri']}"):  # fmt: skip
                    said[f"{accept} {path} {ticket['dbId']}"] = get(installation.intake_port, path, root, accept=accept)
        said |= flower_says(installation)
        said["metrics"] = get(installation.intake_port, "/metrics", root)
        said |= {f"command line of {each.pid}": " ".join(each.cmdline()).encode() for each in up.children}
        states = [each.state for each in store_of(installation).tickets.list()]
    said["terminal"] = up.said.encode()
    said |= {str(each): each.read_bytes() for each in installation.directory.rglob("*") if each.is_file()}
    said["redis"] = "\n".join(redis.seen).encode()

    assert [str(state) for state in states] == ["published", "failed"], "both passwords were used"
    assert any("publisher.publish" in command for command in redis.seen), "Redis was listened to"
    assert b'publisher_tickets{platform="openstack",state="published"} 1.0' in said["metrics"]
    assert any(name.endswith("publisher.db") for name in said)
    assert any(b"publisher.publish" in text for name, text in said.items() if name.startswith("flower"))
    for secret in (right, WRONG):
        for form in (secret.encode(), b64encode(secret.encode())):
            assert [name for name, text in said.items() if form in text] == []


def flower_says(installation: Installation) -> dict[str, bytes]:
    operator = f"operator:{installation.password('flower')}"
    tasks: dict[str, Any] = json.loads(get(installation.flower_port, "/api/tasks", operator))
    assert len(tasks) >= 2
    pages = ["/api/tasks", "/api/workers", "/tasks", *(f"/task/{task}" for task in tasks)]
    return {f"flower {page}": get(installation.flower_port, page, operator) for page in pages}


def store_of(installation: Installation) -> Store:
    return Store.open(Settings(data_dir=installation.directory))
