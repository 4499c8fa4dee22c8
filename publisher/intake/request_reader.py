"""Read HTTP/1 requests from the bytes of a connection (RFC 9112).

Nothing is guessed: a request that two servers could understand differently is refused, even where the RFC allows a
server to repair it (lines that end in a bare LF, folded headers, empty lines before a request).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

HEAD_BYTES_MAX = 1 << 16
"""Maximum size of a request's line and headers together, and of a chunked body's trailers."""
_CHUNK_LINE_BYTES_MAX = 1 << 12
_LENGTH_DIGITS_MAX = 20

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_TEXT = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]++) HTTP/([0-9]\.[0-9])\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":" + _TEXT + rb"\r\n)*+")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*+(" + _TEXT + rb")\r\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})(?:;" + _TEXT + rb"|[ \t]*+)\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CHECKED = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})


class Malformed(Exception):
    """The bytes are no request that the service reads. `status` is the answer: 400, 431 or 501."""

    def __init__(self, status: int = 400) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Head:
    """The line and the headers of a request. Header names are in lower case."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    length: int | None = 0
    """The size of the body in bytes. None: the body is chunked."""
    keep_alive: bool = True
    expects_continue: bool = False


class _ChunkPart(Enum):
    """The parts of a chunked body, in their order."""

    SIZE = "a line with a size"
    DATA = "the data of the chunk"
    END = "the line end after the data"
    TRAILERS = "the trailers after the last chunk"


class RequestReader:
    """Takes the bytes of one connection and returns heads and bodies in turn."""

    def __init__(self) -> None:
        self.unread = b""
        """The bytes that have arrived and are not read yet."""
        self._searched = 0
        """In these first bytes of `unread`, no head ends, and no trailers do."""
        self._left = 0
        """How much of the body, or of the current chunk, is still to come, in bytes."""
        self._chunked = False
        self._chunk_part = _ChunkPart.SIZE

    def feed(self, data: bytes) -> None:
        self.unread = self.unread + data if self.unread else data

    def read_head(self) -> Head | None:
        """Return the next head, or None until it is complete. The body must be read after it."""
        data = self.unread
        if not data:
            return None
        end = data.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        if end > HEAD_BYTES_MAX:
            raise Malformed(431)
        if end < 4:
            self._check_incomplete(data)
            return None
        head = _head(data[:end] if len(data) > end else data)
        self.unread = data[end:]
        self._searched = 0
        self._chunked = head.length is None
        self._left = head.length or 0
        self._chunk_part = _ChunkPart.SIZE
        return head

    def _check_incomplete(self, data: bytes) -> None:
        # What cannot become a request is refused at once: a blank, an empty line, or the first bytes of TLS.
        if data[0] <= 0x20 or _BARE_LF.search(data, self._searched):
            raise Malformed
        if len(data) > HEAD_BYTES_MAX:
            raise Malformed(431)
        self._searched = len(data)

    def read_body(self) -> tuple[bytes, bool]:
        """Return the next bytes of the body, and whether these are the last. Without any: more have to arrive."""
        if self._chunked:
            return self._read_chunks()
        data = self.unread
        piece, self.unread = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        return piece, self._left == 0

    def _read_chunks(self) -> tuple[bytes, bool]:
        data, at, pieces, ended = self.unread, 0, list[bytes](), False
        while not ended:
            if self._chunk_part is _ChunkPart.SIZE:
                until, self._left = _chunk_size(data, at)
                after = _ChunkPart.DATA if self._left else _ChunkPart.TRAILERS
            elif self._chunk_part is _ChunkPart.DATA:
                pieces.append(data[at : at + self._left])
                self._left -= len(pieces[-1])
                at += len(pieces[-1])
                if self._left:
                    break
                self._chunk_part = _ChunkPart.END
                continue
            elif self._chunk_part is _ChunkPart.END:
                until, after = _after_line_end(data, at), _ChunkPart.SIZE
            else:
                until, after = self._trailers_end(data, at), _ChunkPart.SIZE
                ended = until > at
            if until == at:
                break
            at, self._chunk_part = until, after
        self.unread = data[at:]
        return b"".join(pieces), ended

    def _trailers_end(self, data: bytes, at: int) -> int:
        """Return the position after the trailers, which are checked and ignored; `at` if they are incomplete."""
        if data.startswith(b"\r\n", at):
            return at + 2
        searched = at + self._searched
        end = data.find(b"\r\n\r\n", max(at, searched - 3))
        if (len(data) if end < 0 else end) - at > HEAD_BYTES_MAX:
            raise Malformed(431)
        if end < 0:
            if _BARE_LF.search(data, searched):
                raise Malformed
            self._searched = len(data) - at
            return at
        _read_fields(data, at, end + 2, Head("", b"", "", []))
        self._searched = 0
        return end + 4


def _head(data: bytes) -> Head:
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise Malformed
    method, target, version = line.groups()
    head = Head(method.decode(), target, version.decode(), [])
    hosts = _read_fields(data, line.end(), len(data) - 2, head)
    if hosts > 1 or (hosts == 0 and version == b"1.1"):
        raise Malformed
    if version < b"1.1":
        head.keep_alive = head.expects_continue = False
    return head


def _read_fields(data: bytes, start: int, end: int, head: Head) -> int:
    """Read the headers, or the trailers, between two positions. Return the number of Host headers."""
    if _FIELDS.fullmatch(data, start, end) is None:
        raise Malformed
    hosts = 0
    length = None
    for raw_name, raw_value in _FIELD.findall(data, start, end):
        name, value = raw_name.lower(), raw_value.rstrip(b" \t")
        if name in _CHECKED:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                value = _length(value)
                if length is not None:
                    if value != length:
                        raise Malformed
                    continue
                length = value
                if head.length is not None:
                    head.length = int(value)
            elif name == b"transfer-encoding":
                value = value.lower()
                if value != b"chunked" or any(name == b"transfer-encoding" for name, _ in head.headers):
                    raise Malformed(501)
                head.length = None  # whether Content-Length may be there, too, is the application's decision
            elif name == b"connection":
                head.keep_alive = head.keep_alive and b"close" not in _members(value)
            else:
                head.expects_continue = head.expects_continue or b"100-continue" in _members(value)
        head.headers.append((name, value))
    return hosts


def _length(value: bytes) -> bytes:
    """Return the value of a Content-Length, which may be repeated (RFC 9110, 8.6)."""
    if not value.isdigit():
        lengths = {each.strip(b" \t") for each in value.split(b",")}
        value = lengths.pop() if len(lengths) == 1 else b""
    if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
        raise Malformed
    return value


def _members(value: bytes) -> list[bytes]:
    return [each.strip(b" \t") for each in value.lower().split(b",")]


def _chunk_size(data: bytes, at: int) -> tuple[int, int]:
    """Return where the data of the chunk begins, and its size. If the line is incomplete, it begins at `at`."""
    end = data.find(b"\n", at, at + _CHUNK_LINE_BYTES_MAX) + 1
    if end == 0:
        if len(data) - at >= _CHUNK_LINE_BYTES_MAX:
            raise Malformed(431)
        return at, 0
    line = _CHUNK_LINE.fullmatch(data, at, end)
    if line is None:
        raise Malformed
    return end, int(line[1], 16)


def _after_line_end(data: bytes, at: int) -> int:
    """Return the position after the CR and LF. If they have not arrived yet, return `at`."""
    if data.startswith(b"\r\n", at):
        return at + 2
    if data[at:] not in (b"", b"\r"):
        raise Malformed
    return at
