"""A TCP proxy that throttles, stalls and cuts what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.patience import PATIENCE

_BUFFER_BYTES = 64 << 10


class Proxy:
    """Use as a context. Stands on a port of its own before `target`, a host and a port."""

    def __init__(self, target_url: str, *, bytes_per_second: float | None = None) -> None:
        host, port = target_url.removeprefix("http://").split(":")
        self._target = host, int(port)
        self.bytes_per_second = bytes_per_second
        """Of each connection, towards the target; may be changed at any time."""
        self.onward = 0
        """Bytes that have gone towards the target, of all connections."""
        self.waiting_for_new = 0
        """Connections that were made while nothing was let through."""
        self._moving = threading.Event()
        self._moving.set()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._moving.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def stall(self) -> None:
        """Let nothing through any more, until `resume`."""
        self._moving.clear()

    def resume(self) -> None:
        self._moving.set()

    def cut(self) -> None:
        """Break off every connection there is."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inward, _ = self._listener.accept()
                self.waiting_for_new += not self._moving.is_set()
                threading.Thread(target=self._serve, args=(inward,), daemon=True).start()

    def _serve(self, inward: socket.socket, begun: bytes = b"") -> None:
        """`begun`: what was already read of the connection."""
        # A small buffer, so that what the sender believes to be sent is near to what has gone through.
        inward.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        try:
            onward = socket.create_connection(self._target, timeout=10 * PATIENCE)
        except OSError:
            inward.close()
            return
        onward.settimeout(None)
        with self._lock:
            self._connections |= {inward, onward}
        back = threading.Thread(target=self._copy, args=(onward, inward, False), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            self._moving.wait()
            onward.sendall(begun)
        self._copy(inward, onward, True)
        back.join()
        with self._lock:
            self._connections -= {inward, onward}
        inward.close()
        onward.close()

    def _copy(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                self._moving.wait()
                sink.sendall(data)
                if counted:
                    self.onward += len(data)
                    if self.bytes_per_second:
                        time.sleep(len(data) / self.bytes_per_second)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
