"""The upload engine: sends one image file to a cloud, whole or in parts.

Knows the size, counts the bytes, can restart and can be cancelled.

Memory use does not depend on the size of the image.
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
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

from publisher.core.errors import ImageFileError, InvalidRequest
from publisher.outbound.policy import EVERYWHERE, OutboundPolicy
from workers.parallel import Part, PartDropped, Result, in_parallel
from workers.progress import DoneRanges
from workers.sending import (
    CHUNK_BYTES,
    GONE,
    connected,
    first_byte,
    read_answer,
    reset,
    sends_encrypted,
    sends_memory,
    sends_plain,
    shrank,
    translated,
)
from workers.sending import Answer as Answer  # plugins import it from here

_CHECK_SECONDS = 0.05
"""How often `check` is called while bytes move: for each piece, it would cost a tenth of the CPU."""
_MEANWHILE_SECONDS = 3.0
"""How often `meanwhile` is called."""
_LATE_ANSWER_SECONDS = 5.0
_ZEROS = memoryview(bytes(CHUNK_BYTES))
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Transfer:
    """The bytes of one image. They can be sent whole or in parts, as often as needed, and from several threads at once.

    `check` is called at least twice a second, also for each part, and stops the transfer by raising. `on_sent` gets the
    number of positions of the file that are done: sent, or not needed because they are holes. It never falls: what is
    sent again is not counted again. `on_converting` is called with True when a conversion begins, with False after it.
    """

    def __init__(
        self,
        descriptor: int,
        size: int,
        *,
        check: Callable[[], None] = lambda: None,
        on_sent: Callable[[int], None] = lambda _: None,
        on_converting: Callable[[bool], None] = lambda _: None,
        stall_seconds: float = 120.0,
        policy: OutboundPolicy = EVERYWHERE,
    ) -> None:
        self.size = size
        self.sha256: str | None = None
        """Hash of what was sent, if the bytes went through `chunks`, `read_again` or hashed blocks. None if the cloud
        must report its own."""
        # Of its own: a call that was abandoned may still read when the caller has closed the file, and another file may
        # have got the number by then.
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self._done = DoneRanges()
        self._counting = threading.Lock()
        self._failed = threading.Event()
        """Set while parts are sent at once and one of them has failed."""
        self._moved: Callable[[], None] = lambda: None
        self._check = check
        self._on_sent = on_sent
        self._on_converting = on_converting
        self._stall_seconds = stall_seconds
        self._policy = policy
        self._mtime_ns = os.fstat(self._descriptor).st_mtime_ns
        self._verify_file()

    def through(self, policy: OutboundPolicy) -> None:
        """Connect as this policy says from now on: that of the account, which may name a proxy."""
        self._policy = policy

    def watch(self, *, looked: Callable[[], None], moved: Callable[[], None]) -> None:
        """Also call `looked` at each check, and `moved` for each piece that was sent. Any thread may call them."""
        check = self._check

        def watched_check() -> None:
            looked()
            check()

        self._check, self._moved = watched_check, moved

    @property
    def descriptor(self) -> int:
        """The open file, for a program that converts it (`/dev/fd/N`). Read it only by position."""
        return self._descriptor

    def check(self) -> None:
        """Raise if the work must stop. For a plugin's own calls; may be called in any thread."""
        if self._failed.is_set():
            raise PartDropped
        self._check()

    def done(self, start: int, end: int) -> None:
        """Count positions of the file as done that need not be sent, because an earlier attempt has sent them."""
        self._moved()
        with self._counting:
            if self._done.add(start, end):
                self._on_sent(self._done.total)

    # Read: for clouds whose SDK sends the bytes ------------------------------------------------------

    def chunks(self) -> Iterator[memoryview]:
        """Yield the whole image from its start, and hash it meanwhile. For a cloud whose SDK reads from an iterator."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for offset, chunk in self._blocks(CHUNK_BYTES, lambda: buffer, hashed=True, holes=True):
            yield chunk
            self.done(offset, offset + len(chunk))

    def read_again(self) -> None:
        """Hash the file again, for a cloud that reports no hash. Raises `ImageFileError`, and what `check` raises."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for _ in self._blocks(CHUNK_BYTES, lambda: buffer, hashed=True, holes=True):
            pass

    def blocks(self, size: int, *, hashed: bool = False) -> Iterator[tuple[int, memoryview]]:
        """Yield offset and content of each block of the file that contains data.

        Blocks begin at multiples of `size`, and have `size` bytes, except the last one of the file. Blocks that are
        holes of the file count as done, but are not yielded. The content is valid until the next block is asked for;
        then the block counts as done, too. With `hashed`, hashes the whole file meanwhile, holes as zeros. Raises
        `ImageFileError`, and what `check` raises.
        """
        buffer = memoryview(bytearray(min(size, self.size)))
        for offset, content in self._blocks(size, lambda: buffer, hashed=hashed):
            yield offset, content
            self.done(offset, offset + len(content))

    def each_block(
        self, size: int, send: Callable[[int, memoryview], None], *, at_once: int, hashed: bool = False
    ) -> None:
        """Call `send` with offset and content of each block that `blocks` yields, in up to `at_once` threads.

        Errors end it as they end `in_parallel`. Memory use is `at_once` blocks.
        """
        own = threading.local()

        def buffer() -> memoryview:
            """Return the buffer of the thread that takes the block. It takes the next one when this one is sent."""
            if not hasattr(own, "buffer"):
                own.buffer = memoryview(bytearray(min(size, self.size)))
            found: memoryview = own.buffer
            return found

        def send_one(block: tuple[int, memoryview]) -> None:
            offset, content = block
            send(offset, content)
            self.done(offset, offset + len(content))

        self.in_parallel(self._blocks(size, buffer, hashed=hashed), send_one, at_once=at_once)

    def in_parallel(self, parts: Iterable[Part], send: Callable[[Part], Result], *, at_once: int) -> list[Result]:
        """Call `send` for each part, in up to `at_once` threads, and return the results in the order of the parts.

        After the first error no part is begun, and `check` and `put` raise in the other threads. The error is raised
        once all threads have ended.
        """
        return in_parallel(parts, send, at_once=at_once, failed=self._failed)

    @contextlib.contextmanager
    def converting(self) -> Iterator[None]:
        """Let the ticket's status say, within the context, that the image is converted. May raise as `check` does."""
        self._on_converting(True)
        yield
        self._moved()
        self._on_converting(False)

    def converted(self, descriptor: int) -> Transfer:
        """Return the transfer of a file that was made of this one. Its progress counts as this one's, in proportion."""
        size = os.fstat(descriptor).st_size

        def on_sent(count: int) -> None:
            self.done(0, count * self.size // size)

        made = Transfer(
            descriptor,
            size,
            check=self.check,
            on_sent=on_sent,
            stall_seconds=self._stall_seconds,
            policy=self._policy,
        )
        made.watch(looked=lambda: None, moved=lambda: self._moved())
        return made

    def _blocks(
        self, size: int, buffer: Callable[[], memoryview], *, hashed: bool, holes: bool = False
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield offset and content of each block with data, in `buffer()`. With `holes`, yield all blocks.

        Counts only holes as done.
        """
        self._verify_file()
        digest = hashlib.sha256() if hashed else None
        if hashed:
            self.sha256 = None
        position = 0
        for start, end in [(0, self.size)] if holes else self._runs(size):
            self._skip(position, start, digest)
            for offset in range(start, end, size):
                self.check()
                content = buffer()[: min(size, end - offset)]
                self._read(content, offset)
                if digest:
                    digest.update(content)
                yield offset, content
            position = end
        self._skip(position, self.size, digest)
        self._verify_file()
        if digest:
            self.sha256 = digest.hexdigest()

    def _runs(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of each run of blocks that contain data."""
        position = 0
        while position < self.size:
            data = self._seek(position, os.SEEK_DATA)
            if data is None:
                return
            hole = self._seek(data, os.SEEK_HOLE)
            if hole is None:
                raise shrank()
            position = min(hole + -hole % size, self.size)
            yield data - data % size, position

    def _seek(self, position: int, what: int) -> int | None:
        """Return where the next data or the next hole begins (lseek(2)); None if there is none in the file."""
        try:
            return min(os.lseek(self._descriptor, position, what), self.size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            if error.errno != errno.EINVAL:
                raise ImageFileError(f"the image file cannot be read: {error.strerror}") from None
            # A file system that knows no holes: all is data.
            return position if what == os.SEEK_DATA else self.size

    def _skip(self, start: int, end: int, digest: hashlib._Hash | None) -> None:
        """Count a hole as done, and hash it as zeros."""
        step = CHUNK_BYTES if digest else max(end - start, 1)
        for position in range(start, end, step):
            self.check()
            count = min(step, end - position)
            if digest:
                digest.update(_ZEROS[:count])
            self.done(position, position + count)

    def _read(self, content: memoryview, offset: int) -> None:
        """Fill `content` with what the file has at `offset`."""
        while content:
            count = os.preadv(self._descriptor, [content], offset)
            if not count:
                raise shrank()
            content, offset = content[count:], offset + count

    # Send --------------------------------------------------------------------------------------------

    def put(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        method: Literal["PUT", "POST", "PATCH"] = "PUT",
        start: int = 0,
        length: int | None = None,
        before: bytes = b"",
        after: bytes = b"",
        meanwhile: Callable[[], None] | None = None,
        tls: ssl.SSLContext | None = None,
        connect_seconds: float = 10.0,
        answer_seconds: float = 900.0,
    ) -> Answer:
        """Send the image as the body of one request, and return the answer, whatever its status.

        The body is `before`, `length` bytes of the file from `start` (None: up to its end), and `after`. `meanwhile` is
        called every few seconds while the part is sent and its answer awaited, and ends it by raising; its own calls
        must be short. Several threads may send parts at the same time, each over its own connection.

        An answer before the last byte ends the upload. Raises `ValueError` if the file has no such range,
        `TransientCloudError` if the connection fails, stalls or is cut without an answer, `PermanentCloudError` if the
        server's certificate is not trusted, `NetworkRefused`, `ImageFileError` if the file has changed, and what
        `check` raises. After an exception the connection is reset.
        """
        end = self.size if length is None else start + length
        if not 0 <= start <= end <= self.size:
            raise ValueError(f"{start} to {end} is no range of a file of {self.size} bytes")
        look = _regularly(self.check, meanwhile)
        self._verify_file()
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise InvalidRequest(f"'{parts.scheme}://{parts.hostname or ''}' is not an http or https address")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        where = f"{parts.hostname}:{port}"
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.default_port = _DEFAULT_PORTS[parts.scheme]
        try:
            context = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
            connection.sock = connected(self._policy, parts.hostname, port, context, connect_seconds, look)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(before) + end - start + len(after)))
            connection.endheaders()
            first = None
            try:
                first = self._send(connection.sock, before, range(start, end), after, look)
            except OSError as error:
                if error.errno not in GONE and not isinstance(error, ssl.SSLEOFError):
                    raise
                # The server refused early: it sent the reason before it closed the connection, so the reason can still
                # be read.
                answer_seconds = _LATE_ANSWER_SECONDS
            answer = read_answer(connection.sock, method, first, answer_seconds, look)
        except BaseException as error:
            reset(connection)
            raise translated(error, where) from None
        connection.close()
        return answer

    def _send(
        self, sock: socket.socket, before: bytes, file: range, after: bytes, look: Callable[[], None]
    ) -> bytes | None:
        """Send the body. If the server answers before the end, stop and return what `first_byte` has read."""
        descriptor = self._descriptor
        if isinstance(sock, ssl.SSLSocket):
            send_file = sends_encrypted(sock, descriptor, file)
        else:
            send_file = sends_plain(sock, descriptor, file)
        incoming = select.poll()
        incoming.register(sock, select.POLLIN)
        now, checked = time.monotonic(), -math.inf
        moved = now
        for send_some, part in (
            (sends_memory(sock, before), range(len(before))),
            (send_file, file),
            (sends_memory(sock, after), range(len(after))),
        ):
            position = part.start
            while position < part.stop:
                if now - checked >= _CHECK_SECONDS:
                    look()
                    checked = now
                if incoming.poll(0) and (first := first_byte(sock)) is not None:
                    return first
                count = send_some(position)
                now = time.monotonic()
                if count:
                    position += count
                    moved = now
                    if part is file:
                        self.done(position - count, position)
                elif now - moved > self._stall_seconds:
                    raise TimeoutError(f"no byte was taken for {self._stall_seconds:.0f} s")
        self._verify_file()
        return None

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


def _regularly(check: Callable[[], None], meanwhile: Callable[[], None] | None) -> Callable[[], None]:
    """Return a check that also calls `meanwhile` every few seconds."""
    if meanwhile is None:
        return check
    due = time.monotonic() + _MEANWHILE_SECONDS

    def look() -> None:
        nonlocal due
        check()
        if time.monotonic() >= due:
            meanwhile()
            due = time.monotonic() + _MEANWHILE_SECONDS

    return look
