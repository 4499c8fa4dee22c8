"""The upload engine: sends one image file to a cloud.

Knows the size, counts the bytes, can restart and can be cancelled.

Over plain HTTP the kernel sends the file (sendfile(2)); over TLS, large reads go through one reused buffer. Memory use
does not depend on the size of the image.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import math
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from publisher.core.errors import ImageFileError, InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from publisher.outbound.policy import EVERYWHERE, OutboundPolicy
from workers import tls as tls_faults
from workers.socket_reader import SocketReader

_CHUNK_BYTES = 1 << 20
"""Bytes sent at a time, at first. With smaller pieces the receiver wakes up for each, and an upload takes a tenth
longer."""
_PIECE_BYTES_MIN, _PIECE_BYTES_MAX = 1 << 16, 4 << 20
"""Limits of what sendfile(2) gets at a time. It hands the first to the socket at a time, and may wait for each."""
_ROOM_SECONDS = 0.025
"""How long sendfile(2) waits for room at a time: so a call ends within 1.6 s, however slow the connection becomes."""
_QUICK_SECONDS, _SLOW_SECONDS = 0.05, 0.2
"""Over a slow connection, pieces become smaller while one takes longer than the second, and larger again while one
takes less than the first."""
_CHECK_SECONDS = 0.05
"""How often `check` is called while bytes move: for each piece, it would cost a tenth of the CPU."""
_WAIT_SECONDS = 0.25
"""How long to wait for the other side before `check` is called again."""
_ANSWER_BYTES_MAX = 64 << 10
_LATE_ANSWER_SECONDS = 5.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server answered to an upload."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transfer:
    """The bytes of one image. They can be sent as often as needed, but only once at a time.

    `check` is called at least twice a second and stops the transfer by raising; `on_sent` gets the number of bytes sent
    so far.
    """

    def __init__(
        self,
        descriptor: int,
        size: int,
        *,
        check: Callable[[], None] = lambda: None,
        on_sent: Callable[[int], None] = lambda _: None,
        stall_seconds: float = 120.0,
        policy: OutboundPolicy = EVERYWHERE,
    ) -> None:
        self.size = size
        self.sha256: str | None = None
        """Hash of what was sent, if the bytes went through `chunks` or `read_again`. None if the cloud must report its
        own."""
        self._descriptor = descriptor
        self._check = check
        self._on_sent = on_sent
        self._stall_seconds = stall_seconds
        self._policy = policy
        self._mtime_ns = os.fstat(descriptor).st_mtime_ns
        self._verify_file()

    def through(self, policy: OutboundPolicy) -> None:
        """Connect as this policy says from now on: that of the account, which may name a proxy."""
        self._policy = policy

    def watch(self, *, looked: Callable[[], None], moved: Callable[[], None]) -> None:
        """Also call `looked` at each check, and `moved` for each piece that was sent."""
        check, on_sent = self._check, self._on_sent

        def watched_check() -> None:
            looked()
            check()

        def watched_sent(sent: int) -> None:
            moved()
            on_sent(sent)

        self._check, self._on_sent = watched_check, watched_sent

    def chunks(self) -> Iterator[memoryview]:
        """Yield the whole image from its start, and hash it meanwhile. For a cloud whose SDK reads from an iterator."""
        self._verify_file()
        hashed = hashlib.sha256()
        self.sha256 = None
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        sent = 0
        while sent < self.size:
            self._check()
            count = os.preadv(self._descriptor, [buffer[: min(_CHUNK_BYTES, self.size - sent)]], sent)
            if not count:
                raise _shrank()
            hashed.update(buffer[:count])
            yield buffer[:count]
            sent += count
            self._on_sent(sent)
        self._verify_file()
        self.sha256 = hashed.hexdigest()

    def read_again(self) -> None:
        """Hash the file again, for a cloud that reports no hash. Raises `ImageFileError`, and what `check` raises."""
        self._verify_file()
        hashed = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        done = 0
        while done < self.size:
            self._check()
            count = os.preadv(self._descriptor, [buffer[: min(_CHUNK_BYTES, self.size - done)]], done)
            if not count:
                raise _shrank()
            hashed.update(buffer[:count])
            done += count
        self._verify_file()
        self.sha256 = hashed.hexdigest()

    def put(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        tls: ssl.SSLContext | None = None,
        connect_seconds: float = 10.0,
        answer_seconds: float = 900.0,
    ) -> Answer:
        """Send the whole image from its start as the body of one PUT, and return the answer, whatever its status.

        An answer before the last byte ends the upload. Raises `TransientCloudError` if the connection fails, stalls or
        is cut without an answer, `PermanentCloudError` if the server's certificate is not trusted, `NetworkRefused`,
        `ImageFileError` if the file has changed, and what `check` raises. After an exception the connection is reset.
        """
        self._verify_file()
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise InvalidRequest(f"'{parts.scheme}://{parts.hostname or ''}' is not an http or https address")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        where = f"{parts.hostname}:{port}"
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.default_port = _DEFAULT_PORTS[parts.scheme]
        try:
            connection.sock = self._policy.connect(parts.hostname, port, connect_seconds)
            if parts.scheme == "https":
                context = tls or ssl.create_default_context()
                connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.putrequest("PUT", path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(self.size))
            connection.endheaders()
            first = None
            try:
                first = self._send(connection.sock)
            except OSError as error:
                if error.errno not in _GONE and not isinstance(error, ssl.SSLEOFError):
                    raise
                # The server refused early: it sent the reason before it closed the connection, so the reason can still
                # be read.
                answer_seconds = _LATE_ANSWER_SECONDS
            answer = self._answer(connection.sock, first, answer_seconds)
        except BaseException as error:
            _reset(connection)
            raise _translated(error, where) from None
        connection.close()
        return answer

    def _send(self, sock: socket.socket) -> bytes | None:
        """Send the file. If the server answers before the end, stop and return what `_first_byte` has read."""
        send_some = self._encrypted(sock) if isinstance(sock, ssl.SSLSocket) else self._plain(sock)
        incoming = select.poll()
        incoming.register(sock, select.POLLIN)
        sent, now, checked = 0, time.monotonic(), -math.inf
        moved = now
        while sent < self.size:
            if now - checked >= _CHECK_SECONDS:
                self._check()
                checked = now
            if incoming.poll(0) and (first := _first_byte(sock)) is not None:
                return first
            count = send_some(sent)
            now = time.monotonic()
            if count:
                sent += count
                moved = now
                self._on_sent(sent)
            elif now - moved > self._stall_seconds:
                raise TimeoutError(f"no byte was taken for {self._stall_seconds:.0f} s")
        self._verify_file()
        return None

    def _plain(self, sock: socket.socket) -> Callable[[int], int]:
        # Let the kernel wait (socket(7), SO_SNDTIMEO) instead of poll(2): so one call hands over a whole piece, not
        # just what fits in the buffer at the moment. poll(2) follows if there is no room at all.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, int(_ROOM_SECONDS * 1_000_000)))
        room = select.poll()
        room.register(sock, select.POLLOUT)
        target = sock.fileno()
        piece = _CHUNK_BYTES

        def send_some(offset: int) -> int:
            nonlocal piece
            wanted, began = min(piece, self.size - offset), time.monotonic()
            try:
                count = os.sendfile(target, self._descriptor, offset, wanted)
            except BlockingIOError:
                room.poll(_WAIT_SECONDS * 1000)
                count = 0
            else:
                if not count:
                    raise _shrank()
            seconds = time.monotonic() - began
            if seconds > _SLOW_SECONDS:
                piece = max(piece // 2, _PIECE_BYTES_MIN)
            elif count == piece < _PIECE_BYTES_MAX and seconds < _QUICK_SECONDS:
                piece *= 2
            return count

        return send_some

    def _encrypted(self, sock: ssl.SSLSocket) -> Callable[[int], int]:
        sock.setblocking(False)
        room = select.poll()
        room.register(sock, select.POLLOUT)
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        held = buffer[:0]

        def send_some(offset: int) -> int:
            nonlocal held
            if not held:
                count = os.preadv(self._descriptor, [buffer[: min(_CHUNK_BYTES, self.size - offset)]], offset)
                if not count:
                    raise _shrank()
                held = buffer[:count]
            try:
                count = sock.send(held)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                room.poll(_WAIT_SECONDS * 1000)
                return 0
            held = held[count:]
            return count

        return send_some

    def _answer(self, sock: socket.socket, first: bytes | None, answer_seconds: float) -> Answer:
        """Wait for the answer and read it. `first` is what has been read of it.

        The server may hash and store for a long time after the last byte.
        """
        deadline = time.monotonic() + answer_seconds

        def look() -> None:
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {answer_seconds:.0f} s after the last byte")

        incoming = SocketReader(sock, look, first)
        read = http.client.HTTPResponse(incoming, method="PUT")  # type: ignore[arg-type]  # it only reads
        read.begin()
        if incoming.ended:
            raise http.client.RemoteDisconnected("")  # cut within the header, which the parser takes for its end
        return Answer(read.status, dict(read.headers.items()), read.read(_ANSWER_BYTES_MAX))

    def _verify_file(self) -> None:
        """Raise `ImageFileError` if the file's size is not as recorded, or the file was written to since it was
        opened."""
        status = os.fstat(self._descriptor)
        if status.st_size != self.size:
            raise ImageFileError(
                f"the image file has {status.st_size} bytes, but {self.size} were registered; register it again"
            )
        if status.st_mtime_ns != self._mtime_ns:
            raise ImageFileError("the image file was written to while it was uploaded; register it again")


def _first_byte(sock: socket.socket) -> bytes | None:
    """Return the first byte of an answer. Empty if the server has closed the connection, None if nothing has arrived.

    Only reading shows this: over TLS, the data that has arrived may be a session ticket and no part of the answer.
    """
    try:
        return sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None


def _shrank() -> ImageFileError:
    return ImageFileError("the image file became shorter while it was uploaded; register it again")


def _translated(error: BaseException, where: str) -> BaseException:
    """Turn an error of the connection into one that the runner handles; return any other unchanged."""
    if words := tls_faults.fault(error, where, "glanceUrl"):
        return PermanentCloudError(words, reason=Reason.CONFIGURATION)
    if isinstance(error, http.client.HTTPException):
        return TransientCloudError(
            f"the connection to {where} failed: it was closed without an answer", reason=Reason.CONNECTION
        )
    if isinstance(error, OSError):
        words = str(error.args[-1]) if error.args else type(error).__name__
        return TransientCloudError(f"the connection to {where} failed: {words}", reason=Reason.CONNECTION)
    return error


def _reset(connection: http.client.HTTPConnection) -> None:
    """Close without sending what is still buffered, so that the server notices immediately."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):  # it may never have been connected
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
