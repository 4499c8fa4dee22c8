"""A server that nobody is to connect to, and that tells whether somebody did."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.patience import PATIENCE


@dataclass
class Listening:
    host: str
    port: int
    connections: list[str] = field(default_factory=list)
    """From where."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def listening(
    host: str = "127.0.0.1", port: int = 0, *, family: socket.AddressFamily = socket.AF_INET
) -> Iterator[Listening]:
    """Accepts, notes and closes each connection. By its end all that were made to it are noted."""
    listener = socket.create_server((host, port), family=family)
    made = Listening(host, listener.getsockname()[1])

    def serve() -> None:
        while True:
            connection, peer = listener.accept()
            connection.close()
            if peer == last.getsockname():
                return
            made.connections.append(peer[0])

    last = socket.socket(family)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        # Connections are accepted in the order in which they were made: this is the last one.
        with contextlib.suppress(OSError):
            last.bind((host, 0))
        last.connect((host, made.port))
        thread.join(10 * PATIENCE)
        last.close()
        listener.close()
