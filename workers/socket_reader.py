"""Read an answer from a socket, and call a check before each read and while waiting."""

from __future__ import annotations

import io
import select
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_WAIT_SECONDS = 0.25
"""How long to wait for data before the check is called again."""


class SocketReader(io.RawIOBase):
    """A socket in the form that `http.client.HTTPResponse` reads from.

    `first` is what has been read already. `look` ends the read by raising, whether the answer never comes, comes drop
    by drop, or never ends.
    """

    def __init__(self, sock: socket.socket, look: Callable[[], None], first: bytes | None = None) -> None:
        self.ended = False
        self._sock = sock
        self._look = look
        self._first = first
        sock.setblocking(False)
        # Like any file made from a socket, this keeps the socket open as long as this object exists, even if others
        # close it.
        self._held = sock.makefile("rb", buffering=0)
        self._something = select.poll()
        self._something.register(sock, select.POLLIN)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        if self._first is not None:
            count = len(self._first)
            view[:count], self._first = self._first, None
        else:
            count = self._receive(view)
        self.ended = not count
        return count

    def close(self) -> None:
        self._held.close()
        super().close()

    def _receive(self, view: memoryview) -> int:
        while True:
            self._look()
            try:
                return self._sock.recv_into(view)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._something.poll(_WAIT_SECONDS * 1000)
