"""Reading an answer from a socket, with a look at whether to go on before each read and all along the waiting."""

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
"""How long to wait for the other side before looking whether to go on."""


class SocketReader(io.RawIOBase):
    """A socket as `http.client.HTTPResponse` wants to read it: `first` has been read already, and `look` ends the
    reading by raising, however the answer comes: never, drop by drop, or without end."""

    def __init__(self, sock: socket.socket, look: Callable[[], None], first: bytes | None = None) -> None:
        self.ended = False
        self._sock = sock
        self._look = look
        self._first = first
        sock.setblocking(False)
        # As with any file of a socket, that stays open for as long as this is, whoever closes it before.
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
