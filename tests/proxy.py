"""A TCP proxy that can throttle, stall and cut connections."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.patience import PATIENCE

_BUFFER_BYTES = 64 << 10


class Proxy:
    """Use as a context. The proxy listens on its own port and forwards to the host and port of `target_url`."""

    def __init__(self, target_url: str, *, bytes_per_second: float | None = None) -> None:
        host, port = target_url.removeprefix("http://").split(":")
        self._target = host, int(port)
        self.bytes_per_second = bytes_per_second
        """Limit for each connection towards the target. It may be changed at any time."""
        self.onward = 0
        """Bytes that all connections have sent towards the target."""
        self.waiting_for_new = 0
        """Number of connections made while the proxy was stalled."""
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
        """Let nothing through until `resume`."""
        self._moving.clear()

    def resume(self) -> None:
        self._moving.set()

    def cut(self) -> None:
        """Cut every open connection."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def idle(self) -> bool:
        """Whether all that was sent through it is answered or cut."""
        return not self._connections

    def passing(self, data: bytes) -> None:
        """Called before these bytes go on towards the target. For subclasses."""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inward, _ = self._listener.accept()
                self.waiting_for_new += not self._moving.is_set()
                threading.Thread(target=self._serve, args=(inward,), daemon=True).start()

    def _serve(self, inward: socket.socket, begun: bytes = b"") -> None:
        """Serve a connection. `begun` holds the bytes that were already read from it."""
        # A small buffer, so that the sender's count of sent bytes stays close to the bytes that went through.
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
            self.passing(begun)
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
                if counted:
                    self.passing(data)
                sink.sendall(data)
                if counted:
                    self.onward += len(data)
                    if self.bytes_per_second:
                        time.sleep(len(data) / self.bytes_per_second)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class HoldingProxy(Proxy):
    """A proxy that holds one HTTP request before it reaches its target."""

    def __init__(self, target_url: str) -> None:
        super().__init__(target_url)
        self.held: bytes | None = None
        """The line of the request that was held; None before it has come."""
        self._pattern: re.Pattern[bytes] | None = None
        self._skipped = 0
        self._released = threading.Event()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        super().__exit__(kind, error, trace)

    def hold(self, pattern: str, *, skip: int = 0) -> None:
        """Hold the next request whose beginning matches, after `skip` others that match, until `release`."""
        self._skipped = skip
        self._pattern = re.compile(pattern.encode())

    def release(self) -> None:
        """Let the request go on, although whoever sent it may be gone."""
        self._released.set()

    def passing(self, data: bytes) -> None:
        with self._lock:
            if not (self._pattern and self._pattern.match(data)):
                return
            if self._skipped:
                self._skipped -= 1
                return
            self._pattern, self.held = None, data.split(b"\r\n", 1)[0]
        self._released.wait()
