"""A receiver of webhooks over real sockets that answers as a test tells it to."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

from tests.patience import PATIENCE


@dataclass
class Receiver:
    host: str
    port: int = 0
    scheme: str = "http"
    statuses: list[int] = field(default_factory=list)
    """The status of each answer in turn; then 204."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of its answers."""
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)
    """Headers and body of each request."""
    paths: list[str] = field(default_factory=list)
    going: threading.Event = field(default_factory=threading.Event)
    """While cleared, the receiver does not answer."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/hooks/a-secret-of-the-path"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    def verified(self, secret: str) -> list[Any]:
        """Return the received bodies after checking their signatures."""
        return [Webhook(secret).verify(body, headers) for headers, body in self.got]


@contextmanager
def receiver(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **how: Any) -> Iterator[Receiver]:
    made = Receiver(host, scheme="https" if tls else "http", **how)
    made.going.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            made.paths.append(self.path)
            made.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            made.going.wait(20 * PATIENCE)
            self.send_response(made.statuses.pop(0) if made.statuses else 204)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            made.paths.append(f"GET {self.path}")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep the log out of the tests' output."""

    server = ThreadingHTTPServer((host, 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.going.set()
        server.shutdown()
        thread.join()
        server.server_close()
