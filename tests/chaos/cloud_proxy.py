"""A proxy between the workers and Glance. Besides the usual faults of connections, it can answer in place of Glance,
and lose Glance's answers."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from http import HTTPStatus

from tests.proxy import Proxy

_HEAD_BYTES_MAX = 64 << 10


@dataclass(frozen=True)
class Request:
    """The head of one request. Glance's server closes after each answer, so a connection carries no second one."""

    method: str
    path: str
    token: str

    @classmethod
    def of(cls, head: bytes) -> Request:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, *_ = [*first.split(" "), "", ""]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return cls(method, path, headers.get("x-auth-token", ""))


class CloudProxy(Proxy):
    def __init__(self, target_url: str, *, bytes_per_second: float | None = None) -> None:
        super().__init__(target_url, bytes_per_second=bytes_per_second)
        self.refusing: int | None = None
        """An HTTP status with which every request is answered instead of being passed on."""
        self.losing = False
        """Whether Glance's answers are lost. Glance still carries out the requests."""
        self.touched = 0
        """Number of requests that were refused or whose answer was lost."""
        self._seen: set[str] = set()
        self._expired: set[str] = set()
        self._uploads: dict[socket.socket, str] = {}

    @property
    def uploads(self) -> int:
        """Number of uploads under way."""
        return len(self._uploads)

    def expire_tokens(self) -> int:
        """Expire all tokens that were used so far, also in current uploads. Return the number of these uploads."""
        with self._lock:
            self._expired |= self._seen
            uploads, self._uploads = list(self._uploads), {}
        for inward in uploads:
            self.touched += 1
            with contextlib.suppress(OSError):
                inward.sendall(_answer(HTTPStatus.UNAUTHORIZED))
                inward.shutdown(socket.SHUT_WR)
        return len(uploads)

    def _serve(self, inward: socket.socket, begun: bytes = b"") -> None:
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in begun and len(begun) < _HEAD_BYTES_MAX:
                received = inward.recv(4096)
                if not received:
                    break
                begun += received
        if b"\r\n\r\n" not in begun:
            inward.close()
            return
        request = Request.of(begun.split(b"\r\n\r\n", 1)[0])
        status = self.refusing or (HTTPStatus.UNAUTHORIZED if request.token in self._expired else None)
        if status:
            self.touched += 1
            _refuse(inward, status)
            return
        with self._lock:
            self._seen.add(request.token)
            if request.method == "PUT":
                self._uploads[inward] = request.token
        super()._serve(inward, begun)
        with self._lock:
            self._uploads.pop(inward, None)

    def _copy(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        if not counted:
            with contextlib.suppress(OSError):
                # The answer has come when there is something to read.
                if source.recv(1, socket.MSG_PEEK) and self.losing:
                    while source.recv(64 << 10):
                        pass
                    self.touched += 1
                    sink.shutdown(socket.SHUT_RDWR)
                    return
        super()._copy(source, sink, counted)


def _answer(status: int) -> bytes:
    words = f"{status} by the tests".encode()
    retry = "Retry-After: 1\r\n" if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{retry}Content-Type: text/plain\r\nConnection: close\r\n"
        f"Content-Length: {len(words)}\r\n\r\n"
    )
    return head.encode() + words


def _refuse(inward: socket.socket, status: int) -> None:
    """Answer, and read on for a while, so that the answer is not lost by a reset."""
    with contextlib.suppress(OSError), inward:
        inward.sendall(_answer(status))
        inward.shutdown(socket.SHUT_WR)
        inward.settimeout(2)
        while inward.recv(64 << 10):
            pass
