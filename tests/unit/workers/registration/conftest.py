"""A server to fetch from, and a worker's registrar."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from publisher.core.settings import Settings
from publisher.store import Store
from tests.records import add_owner
from tests.unit.workers.registration.origin import Origin
from workers.registration import Registrar


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            made.asked.append(path)
            made.answers[path](self)

        def do_HEAD(self) -> None:
            """Answer with the head of the GET answer, without its body. S3 clients request sizes this way."""
            self.wfile, wfile = io.BytesIO(), self.wfile
            self.do_GET()
            wfile.write(self.wfile.getvalue().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self.wfile = wfile

        def log_message(self, *_: Any) -> None:
            """Keep the server's log out of the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, location_hosts="127.0.0.1", lease_seconds=3.0, progress_seconds=0.05, attempts_max=3,
        retry_first_seconds=0.0, retry_longest_seconds=0.0, stall_seconds=0.5, connect_timeout_seconds=2.0,
    )  # fmt: skip


@pytest.fixture
def registrar(sqlite_store: Store, settings: Settings) -> Registrar:
    add_owner(sqlite_store)
    settings.images.mkdir()
    return Registrar(sqlite_store, settings, worker="w1")
