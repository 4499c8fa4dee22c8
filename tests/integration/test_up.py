"""`publisher up` with real programs: it answers, publishes, stops cleanly, and leaves nothing running."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from flower.urls import handlers
from tornado.routing import URLSpec
from tornado.web import RequestHandler

from publisher.cli.programs import redis_answers, worker_node
from publisher.cli.supervisor import DEATHS_MAX
from publisher.core.settings import Settings
from tests import disks
from tests.installation import (
    CLOUD_PASSWORD,
    START_SECONDS,
    STOP_SECONDS,
    Installation,
    Up,
    alive,
    eventually,
    running,
)
from tests.patience import PATIENCE
from tests.servers import missing
from tests.servers.process import free_port
from tests.servers.redis import find_redis

pytestmark = pytest.mark.real

WORKER = "-m workers"


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return installed(tmp_path)


def installed(directory: Path) -> Installation:
    if find_redis() is None:
        missing("redis-server")
    return Installation(directory / "data", free_port(), free_port())


@dataclass
class Shared:
    """An installation that is up, and that several tests share."""

    installation: Installation
    up: Up

    def publish(self) -> None:
        """Publish a small image."""
        image = self.installation.directory.with_suffix(".img")
        image.write_bytes(disks.raw(os.urandom(1 << 20)))
        arguments = ["publish", str(image), "--platform", "memory", "--login", "x", "--wait", "--timeout", "120"]
        published = self.installation.run(*arguments, OS_PASSWORD=CLOUD_PASSWORD)
        assert published.returncode == 0, published.stderr

    def states(self) -> list[str]:
        """Return the states of all tickets."""
        listed = json.loads(self.installation.run("tickets", "list", "--json").stdout)
        return [ticket["state"] for ticket in listed["tickets"]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """An installation with all its components. At the end it must stop cleanly, and show no component's output."""
    installation = installed(tmp_path_factory.mktemp("shared"))
    with running(installation) as up:
        made = Shared(installation, up)
        made.publish()
        yield made
        assert up.stop() == 0
        for word in ("superuser", "alembic", "Traceback"):
            assert word not in up.said


def test_installation_publishes_stops_cleanly_and_starts_again(installation: Installation) -> None:
    image = installation.directory.with_suffix(".img")
    image.write_bytes(disks.raw(os.urandom(3 << 20)))

    with running(installation, "--no-flower") as up:
        password = installation.password("root")
        # The output is not a terminal, so that it names the file with the password.
        assert password not in up.said
        assert "root, password in " in up.said
        assert installation.status(installation.intake_port, "/api/status") == 200
        assert installation.status(installation.flower_port, "/") is None
        assert len(up.children) == 3

        arguments = ["publish", str(image), "--platform", "memory", "--login", "x", "--wait", "--timeout", "30"]
        published = installation.run(*arguments, OS_PASSWORD=CLOUD_PASSWORD)
        assert published.returncode == 0, published.stderr
        assert "is published to memory" in published.stdout
        refused = installation.run(*(*arguments[:5], "refuse", *arguments[6:]), OS_PASSWORD=CLOUD_PASSWORD)
        assert refused.returncode == 1
        assert "refused the login" in refused.stderr

        checked: dict[str, Any] = json.loads(installation.run("doctor", "--json").stdout)
        assert {check["level"] for check in checked["checks"]} == {"ok"}, checked

        again = installation.run("up", PUBLISHER_INTAKE_PORT=str(free_port()))
        assert again.returncode == 2
        assert "already running here" in again.stderr

        assert up.stop() == 0
        assert up.said.endswith("Stopped\n")

    with running(installation, "--no-flower", "--quiet") as up:
        # The earlier user and tickets are still there.
        assert password not in up.said
        listed = json.loads(installation.run("tickets", "list", "--json").stdout)
        assert [ticket["state"] for ticket in listed["tickets"]] == ["failed", "published"]
        assert up.stop(signal.SIGTERM) == 0

    for file in installation.directory.rglob("*"):
        if file.is_file():
            assert CLOUD_PASSWORD.encode() not in file.read_bytes(), file


def test_the_first_lines_are_the_address_and_the_login(shared: Shared) -> None:
    lines = shared.up.said.splitlines()
    assert lines[0].endswith(" is up")
    assert lines[1].split() == ["Console", f"http://127.0.0.1:{shared.installation.intake_port}/console"]
    assert lines[2].startswith("Login   root, password ")


def test_flower_requires_a_login_and_is_read_only(shared: Shared) -> None:
    installation, up = shared.installation, shared.up
    port, login = installation.flower_port, f"operator:{installation.password('flower')}"
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
        assert installation.status(port, path) == 401, path
    assert installation.status(port, "/api/workers", login="operator:wrong") == 401
    assert installation.status(port, "/workers", login=login) == 200

    paths = takes_posts(worker_node())
    assert len(paths) >= 14
    for path in paths:
        # The table of tasks is requested with POST. The pattern `.*` stands for unknown paths.
        expected = {"/tasks/datatable": 400, ".*": 404}.get(path, 403)
        assert ask(port, "POST", path, login)[0] == expected, path
        assert ask(port, "POST", path, "operator:wrong")[0] == (401 if expected != 404 else 404), path
    # Flower did none of this: the worker still runs and consumes.
    eventually(lambda: queues(port, login) == ["publisher"], 20)

    _, page = ask(port, "GET", "/tasks", login)
    assert b'href="http://127.0.0.1:%d/console"' % installation.intake_port in page
    columns = re.findall(rb'data-column="(.*?)"', page)
    assert columns == [b"name", b"args", b"state", b"result", b"received", b"runtime", b"worker", b"uuid"]

    for child in up.children:
        assert installation.password("flower") not in " ".join(child.cmdline())
        listening = {each.laddr.ip for each in child.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
        assert listening <= {"127.0.0.1"}


def takes_posts(name: str) -> list[str]:
    """Return the paths to which Flower takes a POST, for a worker or a task of that name."""
    paths = []
    for handler in handlers:
        spec = handler if isinstance(handler, URLSpec) else URLSpec(*handler)
        if spec.handler_class.post is not RequestHandler.post:
            paths.append(spec.regex.pattern.rstrip("$").replace("(.+)", name))
    return paths


def queues(port: int, login: str) -> list[str]:
    """Return the queues that the worker consumes, as far as Flower knows by now."""
    workers = json.loads(ask(port, "GET", "/api/workers?refresh=1", login)[1])
    return [each["name"] for each in workers.get(worker_node(), {}).get("active_queues", ())]


def ask(port: int, method: str, path: str, login: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * PATIENCE)
    try:
        connection.request(method, path, headers={"Authorization": f"Basic {b64encode(login.encode()).decode()}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_flower_can_be_served_below_a_path(installation: Installation) -> None:
    prefix = {
        "PUBLISHER_FLOWER_URL": "https://images.example.com/flower",
        "PUBLISHER_PUBLIC_URL": "https://images.example.com",
    }
    with running(replace(installation, variables=prefix)) as up:
        port, login = installation.flower_port, f"operator:{installation.password('flower')}"
        assert "Flower  https://images.example.com/flower\n" in up.said
        status, page = ask(port, "GET", "/flower/tasks", login)
        assert status == 200
        assert b'src="/flower/static/js/flower.js' in page
        assert b'href="https://images.example.com/console"' in page
        assert ask(port, "GET", "/flower/tasks", "operator:wrong")[0] == 401
        assert ask(port, "GET", "/tasks", login)[0] == 404
        assert up.stop() == 0


@pytest.mark.parametrize(
    ("name", "command"),
    [("flower", "workers.app flower"), ("redis", "redis-server"), ("worker", WORKER), ("intake", "publisher.intake")],
)
def test_component_that_dies_is_started_again(shared: Shared, name: str, command: str) -> None:
    up, earlier = shared.up, shared.states()
    before = up.children
    killed = up.child(command)
    killed.kill()
    eventually(lambda: f"{name} answers again" in up.said, START_SECONDS, lambda: up.said)
    assert f"Warning: {name} stopped unexpectedly (killed by SIGKILL); restarting it in 0.5 s" in up.said
    assert [each for each in before if not alive(each)] == [killed]
    assert len(up.children) == len(before)
    # Earlier tickets are still there, and new ones are published.
    shared.publish()
    assert earlier
    assert shared.states() == ["published"] * (len(earlier) + 1)


def test_component_that_dies_repeatedly_stops_everything(installation: Installation) -> None:
    with running(installation, "--no-flower", "--quiet") as up:
        children = up.children
        killed: set[int] = set()

        def kill_again() -> bool:
            found = [each for each in up.children if each.pid not in killed and WORKER in " ".join(each.cmdline())]
            for each in found:
                each.kill()
                killed.add(each.pid)
            return len(killed) == DEATHS_MAX

        eventually(kill_again, 2 * START_SECONDS, lambda: up.said)
        assert up.process.wait(STOP_SECONDS) == 1
        assert "Error: worker stopped unexpectedly (killed by SIGKILL), for the 5th time in a row" in up.said
        assert "its last lines:" in up.said
        assert "worker.log" in up.said
        assert [each for each in children if alive(each)] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl(2)")
def test_no_component_outlives_a_killed_publisher(installation: Installation) -> None:
    with running(installation, "--no-flower", "--quiet") as up:
        children = up.children
        up.process.kill()
        up.process.wait(STOP_SECONDS)
        eventually(lambda: not any(alive(each) for each in children), 5)

    with running(installation, "--no-flower", "--quiet") as up:
        assert redis_answers(Settings(data_dir=installation.directory).embedded_redis_socket)
        assert up.stop() == 0
