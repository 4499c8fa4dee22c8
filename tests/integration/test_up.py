"""`publisher up` with real programs: it answers, publishes, stops cleanly, and leaves nothing running."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from publisher.cli.redis_server import answers
from publisher.core.settings import Settings
from tests.servers import missing
from tests.servers.process import free_port
from tests.servers.redis import find_redis

pytestmark = pytest.mark.real

PUBLISHER = [sys.executable, "-m", "publisher.cli.main"]
START_SECONDS = 60
STOP_SECONDS = 10
CLOUD_PASSWORD = "hunter2-of-the-cloud"
UP = "Stop    Ctrl-C"
"""The last line that it prints once everything answers."""


@dataclass
class Installation:
    directory: Path
    intake_port: int
    flower_port: int

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PUBLISHER_", "OS_", "FLOWER_"))}
        return kept | {
            "PUBLISHER_DATA_DIR": str(self.directory),
            "PUBLISHER_INTAKE_PORT": str(self.intake_port),
            "PUBLISHER_FLOWER_PORT": str(self.flower_port),
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PUBLISHER, *arguments],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self, port: int, path: str, *, login: str | None = None) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def password(self, name: str) -> str:
        file = self.directory / f"{name}.password"
        assert file.stat().st_mode & 0o777 == 0o600
        return file.read_text().strip()


@dataclass
class Up:
    """A `publisher up` that is ready."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, words: str) -> psutil.Process:
        (found,) = [each for each in self.children if words in " ".join(each.cmdline())]
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """The exit code; no child is left then."""
        children = self.children
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        assert [each for each in children if alive(each)] == []
        assert "Traceback" not in self.said
        return code


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], bool], seconds: float, say: Callable[[], str] = str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, say()
        time.sleep(0.05)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    if find_redis() is None:
        missing("redis-server")
    return Installation(tmp_path / "data", free_port(), free_port())


@contextmanager
def running(installation: Installation, *options: str) -> Iterator[Up]:
    output = installation.directory.with_suffix(".out")
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*PUBLISHER, "up", *options], env=installation.environment, stdout=out, stderr=subprocess.STDOUT
        )
    up = Up(process, output)
    try:
        eventually(lambda: UP in up.said or process.poll() is not None, START_SECONDS, lambda: up.said)
        assert process.poll() is None, up.said
        yield up
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_it_publishes_stops_cleanly_and_starts_again(installation: Installation) -> None:
    image = installation.directory.with_suffix(".img")
    image.write_bytes(os.urandom(3 << 20))

    with running(installation, "--no-flower") as up:
        password = installation.password("root")
        assert up.said.count(password) == 1
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
        # The user and the tickets of before are still there.
        assert password not in up.said
        listed = json.loads(installation.run("tickets", "list", "--json").stdout)
        assert [ticket["state"] for ticket in listed["tickets"]] == ["published", "failed"]
        assert up.stop(signal.SIGTERM) == 0

    for file in installation.directory.rglob("*"):
        if file.is_file():
            assert CLOUD_PASSWORD.encode() not in file.read_bytes(), file


def test_flower_is_behind_a_login_and_only_shows(installation: Installation) -> None:
    with running(installation) as up:
        port, login = installation.flower_port, f"operator:{installation.password('flower')}"
        for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
            assert installation.status(port, path) == 401, path
        assert installation.status(port, "/api/workers", login="operator:wrong") == 401
        assert installation.status(port, "/workers", login=login) == 200

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(
            "POST",
            "/api/task/send-task/publisher.publish",
            body=json.dumps({"args": [1]}),
            headers={"Authorization": f"Basic {b64encode(login.encode()).decode()}"},
        )
        assert connection.getresponse().status == 403
        connection.close()

        for child in up.children:
            assert installation.password("flower") not in " ".join(child.cmdline())
            listening = {each.laddr.ip for each in child.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
            assert listening <= {"127.0.0.1"}
        assert up.stop() == 0


def test_a_worker_that_dies_ends_everything(installation: Installation) -> None:
    with running(installation, "--no-flower", "--quiet") as up:
        children = up.children
        up.child("celery").kill()

        assert up.process.wait(STOP_SECONDS) == 1
        assert "Error: worker stopped unexpectedly (killed by SIGKILL)" in up.said
        assert "worker.log" in up.said
        assert [each for each in children if alive(each)] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl(2)")
def test_nothing_outlives_one_that_is_killed(installation: Installation) -> None:
    with running(installation, "--no-flower", "--quiet") as up:
        children = up.children
        up.process.kill()
        up.process.wait(STOP_SECONDS)
        eventually(lambda: not any(alive(each) for each in children), 5)

    with running(installation, "--no-flower", "--quiet") as up:
        assert answers(Settings(data_dir=installation.directory).embedded_redis_socket)
        assert up.stop() == 0
