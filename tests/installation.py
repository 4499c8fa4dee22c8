"""A `publisher up`, started as a person starts it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.patience import PATIENCE

PUBLISHER = [sys.executable, "-m", "publisher.cli.main"]
START_SECONDS = 60 * PATIENCE
STOP_SECONDS = 10 * PATIENCE
CLOUD_PASSWORD = "hunter2-of-the-cloud"
UP = "Stop    Ctrl-C"
"""The last line that `up` prints once everything answers."""


@dataclass
class Installation:
    directory: Path
    intake_port: int
    flower_port: int
    variables: dict[str, str] = field(default_factory=dict)
    """Further environment variables."""

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PUBLISHER_", "OS_", "FLOWER_"))}
        return kept | {
            "PUBLISHER_DATA_DIR": str(self.directory),
            "PUBLISHER_INTAKE_PORT": str(self.intake_port),
            "PUBLISHER_FLOWER_PORT": str(self.flower_port),
            **self.variables,
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PUBLISHER, *arguments],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )

    def status(self, port: int, path: str, *, login: str | None = None) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * PATIENCE)
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
        """Stop it and return the exit code. Fails if a child process is left."""
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
    """Wait for a condition. Fails after `seconds` times PATIENCE."""
    until = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < until, say()
        time.sleep(0.05)


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
