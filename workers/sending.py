"""Send pieces of a file or of memory over a connection, and read the answer: what `workers.transfer` consists of.

Over plain HTTP the kernel sends the file (sendfile(2)); over TLS, large reads go through one reused buffer.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from publisher.core.errors import ImageFileError, PermanentCloudError, Reason, TransientCloudError
from publisher.outbound.policy import OutboundPolicy
from workers import tls as tls_faults
from workers.abandonable import aside
from workers.socket_reader import SocketReader

SendSome = Callable[[int], int]
"""Sends a piece from a position on, waits a moment if there is no room, and returns the number of bytes sent."""

CHUNK_BYTES = 1 << 20
"""Bytes sent at a time, at first. With smaller pieces the receiver wakes up for each, and an upload takes a tenth
longer."""
_PIECE_BYTES_MIN, _PIECE_BYTES_MAX = 1 << 16, 4 << 20
"""Limits of what sendfile(2) gets at a time. It hands the first to the socket at a time, and may wait for each."""
_ROOM_SECONDS = 0.025
"""How long sendfile(2) waits for room at a time: so a call ends within 1.6 s, however slow the connection becomes."""
_QUICK_SECONDS, _SLOW_SECONDS = 0.05, 0.2
"""Over a slow connection, pieces become smaller while one takes longer than the second, and larger again while one
takes less than the first."""
_WAIT_SECONDS = 0.25
"""How long to wait for the other side before `check` is called again."""
_ANSWER_BYTES_MAX = 64 << 10
GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
"""Errors of a connection that the server has closed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server answered to an upload."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def connected(
    policy: OutboundPolicy, host: str, port: int, tls: ssl.SSLContext | None, seconds: float, look: Callable[[], None]
) -> socket.socket:
    """Connect, in a thread that is abandoned if `look` raises: a silent address must not delay a stop."""

    def connect() -> socket.socket:
        made = policy.connect(host, port, seconds)
        return tls.wrap_socket(made, server_hostname=host) if tls else made  # closes it if that fails

    return aside(connect, check=look, discard=socket.socket.close)


def sends_plain(sock: socket.socket, descriptor: int, file: range) -> SendSome:
    """Return what sends pieces of a file by sendfile(2)."""
    # Let the kernel wait (socket(7), SO_SNDTIMEO) instead of poll(2): so one call hands over a whole piece, not
    # just what fits in the buffer at the moment. poll(2) follows if there is no room at all.
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, int(_ROOM_SECONDS * 1_000_000)))
    room = select.poll()
    room.register(sock, select.POLLOUT)
    target = sock.fileno()
    piece = CHUNK_BYTES

    def send_some(offset: int) -> int:
        nonlocal piece
        wanted, began = min(piece, file.stop - offset), time.monotonic()
        try:
            count = os.sendfile(target, descriptor, offset, wanted)
        except BlockingIOError:
            room.poll(_WAIT_SECONDS * 1000)
            count = 0
        else:
            if not count:
                raise shrank()
        seconds = time.monotonic() - began
        if seconds > _SLOW_SECONDS:
            piece = max(piece // 2, _PIECE_BYTES_MIN)
        elif count == piece < _PIECE_BYTES_MAX and seconds < _QUICK_SECONDS:
            piece *= 2
        return count

    return send_some


def sends_encrypted(sock: ssl.SSLSocket, descriptor: int, file: range) -> SendSome:
    """Return what sends pieces of a file over TLS, from one buffer that is used again."""
    sock.setblocking(False)
    room = select.poll()
    room.register(sock, select.POLLOUT)
    buffer = memoryview(bytearray(min(CHUNK_BYTES, len(file))))
    held = buffer[:0]

    def send_some(offset: int) -> int:
        nonlocal held
        if not held:
            count = os.preadv(descriptor, [buffer[: file.stop - offset]], offset)
            if not count:
                raise shrank()
            held = buffer[:count]
        try:
            count = sock.send(held)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            room.poll(_WAIT_SECONDS * 1000)
            return 0
        held = held[count:]
        return count

    return send_some


def sends_memory(sock: socket.socket, content: bytes) -> SendSome:
    """Return what sends pieces of `content`."""
    room = select.poll()
    room.register(sock, select.POLLOUT)
    view = memoryview(content)

    def send_some(position: int) -> int:
        try:
            return sock.send(view[position : position + _PIECE_BYTES_MIN])
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            room.poll(_WAIT_SECONDS * 1000)
            return 0

    return send_some


def read_answer(
    sock: socket.socket, method: str, first: bytes | None, answer_seconds: float, check: Callable[[], None]
) -> Answer:
    """Wait for the answer and read it. `first` is what has been read of it.

    The server may hash and store for a long time after the last byte.
    """
    deadline = time.monotonic() + answer_seconds

    def look() -> None:
        check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {answer_seconds:.0f} s after the last byte")

    with SocketReader(sock, look, first) as incoming:  # it keeps the socket open
        read = http.client.HTTPResponse(incoming, method=method)  # type: ignore[arg-type]  # it only reads
        read.begin()
        if incoming.ended:
            raise http.client.RemoteDisconnected("")  # cut within the header, which the parser takes for its end
        return Answer(read.status, dict(read.headers.items()), read.read(_ANSWER_BYTES_MAX))


def first_byte(sock: socket.socket) -> bytes | None:
    """Return the first byte of an answer. Empty if the server has closed the connection, None if nothing has arrived.

    Only reading shows this: over TLS, the data that has arrived may be a session ticket and no part of the answer.
    """
    try:
        return sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None


def shrank() -> ImageFileError:
    return ImageFileError("the image file became shorter while it was uploaded; register it again")


def translated(error: BaseException, where: str) -> BaseException:
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


def reset(connection: http.client.HTTPConnection) -> None:
    """Close without sending what is still buffered, so that the server notices immediately."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):  # it may never have been connected
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
