"""A reverse proxy that offers several servers under paths of one address, as many clouds offer Keystone and Glance."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.patience import PATIENCE

_BUFFER_BYTES = 64 << 10


class ReverseProxy:
    """Forwards `/identity/v3` to `/v3` of the server that `routes` has for `/identity`; answers 404 to other paths.

    The servers learn nothing of the proxy but the Host that the client named. So the links in their answers lead to
    paths that the proxy does not have, as in a cloud whose servers are not configured for it.
    """

    def __init__(self, routes: Mapping[str, str], tls: ssl.SSLContext, host: str) -> None:
        self._routes = {path: urlsplit(url).netloc for path, url in routes.items()}
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        port = self._listener.getsockname()[1]
        self.url = f"https://[{host}]:{port}" if family == socket.AF_INET6 else f"https://{host}:{port}"
        self.paths: list[str] = []
        """The paths of all requests."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10 * PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        """Forward one request and its answer, then close the connection."""
        with contextlib.suppress(OSError), connection, self._tls.wrap_socket(connection, server_side=True) as client:
            client.settimeout(30 * PATIENCE)
            data = b""
            while b"\r\n\r\n" not in data:
                if not (received := client.recv(_BUFFER_BYTES)):
                    return
                data += received
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, version = first.split(" ")
            self.paths.append(target)
            route = next((path for path in self._routes if target.startswith(f"{path}/") or target == path), None)
            if route is None:
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            headers = [each for each in lines if not each.lower().startswith("connection:")]
            rest = target.removeprefix(route)
            sent = [f"{method} {rest if rest.startswith('/') else f'/{rest}'} {version}", *headers, "Connection: close"]
            missing = next((int(each.split(":")[1]) for each in lines if each.lower().startswith("content-length:")), 0)
            host, _, port = self._routes[route].rpartition(":")
            with socket.create_connection((host, int(port)), timeout=30 * PATIENCE) as server:
                server.sendall("\r\n".join([*sent, "", ""]).encode("latin-1") + body)
                missing -= len(body)
                while missing > 0 and (received := client.recv(_BUFFER_BYTES)):
                    server.sendall(received)
                    missing -= len(received)
                while received := server.recv(_BUFFER_BYTES):
                    client.sendall(received)


@contextmanager
def reverse_proxy(routes: Mapping[str, str], tls: ssl.SSLContext, host: str = "127.0.0.1") -> Iterator[ReverseProxy]:
    """Run a reverse proxy with TLS on a free port of `host`. `routes` are the URLs of servers, by path."""
    proxy = ReverseProxy(routes, tls, host)
    try:
        yield proxy
    finally:
        proxy.close()
