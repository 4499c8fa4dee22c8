"""What all processes of a test run share: servers, and what one process makes for all.

pytest-xdist runs the tests in several processes. The first one that needs a server starts a keeper
(`tests.servers.keeper`), which starts the server and stops it when no process of the run is left, however they ended.
`tests/conftest.py` registers the hooks.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE

PROCESSES = "processes"
"""A file in the run's directory. Each process of the run has a shared lock on it, which ends with the process."""
_END_SECONDS = 60 * PATIENCE


class Run:
    """One run of pytest, as each of its processes sees it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes = os.open(directory / PROCESSES, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._processes, fcntl.LOCK_SH)
        self._keepers: list[subprocess.Popen[bytes]] = []

    def server(self, name: str, kind: str) -> dict[str, Any]:
        """Return how to reach the run's server of that name, and start it if it is the first call in the run.

        `kind` is a key of `keeper.SERVERS`. Raises RuntimeError, in each process, if the server did not start.
        """
        told: dict[str, Any] = self.once(name, lambda: self._keep(name, kind))
        if error := told.get("error"):
            raise RuntimeError(f"{name} did not start:\n{error}")
        return told

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returned in the first process of the run that asked. It must be a JSON value."""
        file = self.directory / f"{name}.json"
        with self.alone(name):
            if not file.exists():
                write(file, make())
            return json.loads(file.read_text())

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Let only one process of the run at a time do this; others wait."""
        with (self.directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def leave(self) -> None:
        os.close(self._processes)

    def end(self) -> None:
        """Wait until the keepers have stopped their servers, and delete the run's directory."""
        until = time.monotonic() + _END_SECONDS
        for each in self.directory.glob("*.keeper"):
            while is_locked(each):
                if time.monotonic() > until:
                    raise RuntimeError(f"the tests' server {each.stem} does not stop: read {each.with_suffix('.log')}")
                time.sleep(0.02)
        shutil.rmtree(self.directory)

    def _keep(self, name: str, kind: str) -> Any:
        told, log = self.directory / f"{name}.told", self.directory / f"{name}.log"
        with log.open("wb") as out:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.keeper", kind, self.directory, name],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C must not stop it before the tests that use the server have ended.
                start_new_session=True,
            )
        self._keepers.append(keeper)
        while not told.exists():
            if keeper.poll() is not None and not told.exists():
                return {"error": log.read_text(errors="replace")[-4000:]}
            time.sleep(0.02)
        return json.loads(told.read_text())


RUN = pytest.StashKey[Run]()


def pytest_configure(config: pytest.Config) -> None:
    given = _of_the_run(config)
    config.stash[RUN] = Run(Path(given or tempfile.mkdtemp(prefix="servers-")))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist, before it starts, which run it belongs to."""
    node.workerinput["servers"] = str(node.config.stash[RUN].directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash[RUN]
    run.leave()
    if not _of_the_run(config):
        run.end()


def _of_the_run(config: pytest.Config) -> str | None:
    """Return the run's directory if this is one of xdist's processes, which do not begin or end a run."""
    return getattr(config, "workerinput", {}).get("servers")


def write(file: Path, value: Any) -> None:
    """Write a JSON file that nobody sees half-written and only its owner can read."""
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(value))
    fresh.replace(file)


def is_locked(file: Path) -> bool:
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
