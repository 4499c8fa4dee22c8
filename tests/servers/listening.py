"""A server that should get no connections, and records those it gets."""

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
    """The addresses that connected."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def listening(
    host: str = "127.0.0.1", port: int = 0, *, family: socket.AddressFamily = socket.AF_INET
) -> Iterator[Listening]:
    """Accept, record and close each connection. When the context ends, all connections have been recorded."""
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
        # Connections are accepted in the order in which they were made, so this one is the last.
        with contextlib.suppress(OSError):
            last.bind((host, 0))
        last.connect((host, made.port))
        thread.join(10 * PATIENCE)
        last.close()
        listener.close()
