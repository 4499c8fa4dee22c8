"""Keeps one server for all processes of a test run: starts it, and stops it when none of them is left.

Run as `python -m tests.servers.keeper KIND DIRECTORY NAME`. `tests.servers.shared` starts it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from publisher.devcloud.cloud import DevCloud
from tests.devcloud_venv import devcloud_venv
from tests.servers import shared
from tests.servers.postgres import postgres_server
from tests.servers.rabbitmq import rabbitmq_server


@contextmanager
def _postgres(*, trigrams: bool = False) -> Iterator[dict[str, Any]]:
    with postgres_server(trigrams=trigrams) as server:
        yield {"port": server.port, "password": server.password, "binaries": str(server.binaries)}


@contextmanager
def _postgres_with_trigrams() -> Iterator[dict[str, Any]]:
    with _postgres(trigrams=True) as told:
        yield told


@contextmanager
def _rabbitmq() -> Iterator[dict[str, Any]]:
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    with rabbitmq_server(virtual_hosts=processes) as server:
        yield {"port": server.port}


@contextmanager
def _devcloud() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="devcloud-") as directory:
        cloud = DevCloud(Path(directory) / "cloud", devcloud_venv())
        try:
            cloud.up(say=print)
            yield {"directory": str(cloud.directory), "venv": str(cloud.venv)}
        finally:
            cloud.down()


SERVERS: dict[str, Callable[[], AbstractContextManager[dict[str, Any]]]] = {
    "postgres": _postgres,
    "postgres with trigrams": _postgres_with_trigrams,
    "rabbitmq": _rabbitmq,
    "devcloud": _devcloud,
}


def main(kind: str, directory: Path, name: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Never closed: it stays locked until this process has ended.
    fcntl.flock(os.open(directory / f"{name}.keeper", os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    with SERVERS[kind]() as told:
        shared.write(directory / f"{name}.told", told)
        with (directory / shared.PROCESSES).open() as processes:
            # As long as a process of the run lives, its shared lock keeps this one waiting.
            fcntl.flock(processes, fcntl.LOCK_EX)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    except Exception:  # shared.py shows the end of the log
        traceback.print_exc()
        sys.exit(1)
