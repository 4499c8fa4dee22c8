"""Hashes of an image's bytes, computed piece by piece. Holes of a sparse file are not read."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from queue import SimpleQueue

from publisher.core.image import Digests

READ_BYTES = 1 << 20
ZEROS = bytes(READ_BYTES)
_SHARED_BYTES = 256 << 10
"""Minimum size of a piece to share among threads."""


class Hasher:
    """Computes the `Digests` of bytes that arrive piece by piece."""

    def __init__(self) -> None:
        self.size = 0
        self._hashes = hashlib.md5(usedforsecurity=False), hashlib.sha256(), hashlib.sha512()

    def update(self, piece: bytes | memoryview) -> None:
        """Hash a piece. hashlib releases the interpreter's lock, so several cores can hash a large piece at once."""
        *others, own = self._hashes
        shared = [_threads().submit(each.update, piece) for each in others] if len(piece) >= _SHARED_BYTES else []
        own.update(piece)
        if shared:
            for future in shared:
                future.result()
        else:
            for each in others:
                each.update(piece)
        self.size += len(piece)

    def digests(self) -> Digests:
        return Digests(self.size, *(each.hexdigest() for each in self._hashes))


class _HashingThreads:
    """Daemon threads that hash.

    A ThreadPoolExecutor has no daemons: at exit it would wait for a thread that a signal interrupted at its start.
    """

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[tuple[Future[None], Callable[[bytes | memoryview], None], bytes | memoryview]]
        self._work = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._run, name=f"hashing-{number}", daemon=True).start()

    def submit(self, update: Callable[[bytes | memoryview], None], piece: bytes | memoryview) -> Future[None]:
        future: Future[None] = Future()
        self._work.put((future, update, piece))
        return future

    def _run(self) -> None:
        while True:
            future, update, piece = self._work.get()
            update(piece)
            future.set_result(None)


@cache
def _threads() -> _HashingThreads:
    return _HashingThreads(4)


# Threads do not survive a fork.
os.register_at_fork(after_in_child=_threads.cache_clear)


def digest(path: Path, on_progress: Callable[[int], None] = lambda _: None) -> Digests:
    """Hash a file, reading it once and in constant memory. `on_progress` gets the number of bytes of each step."""
    hasher = Hasher()
    with io.FileIO(path) as file:
        for piece in pieces(file):
            hasher.update(piece)
            on_progress(len(piece))
    return hasher.digests()


def pieces(file: io.FileIO) -> Iterator[bytes | memoryview]:
    """Yield all of a file, from its beginning, at most 1 MiB at a time.

    A piece is valid until the next one is requested. Holes come as pieces of `ZEROS`, without being read.
    """
    buffer = memoryview(bytearray(READ_BYTES))
    zeros = memoryview(ZEROS)
    # Data that is appended meanwhile is left out.
    size = os.fstat(file.fileno()).st_size
    for start, end, data in _extents(file.fileno(), size):
        if not data:
            for offset in range(start, end, READ_BYTES):
                yield zeros[: min(READ_BYTES, end - offset)]
            continue
        file.seek(start)
        while start < end and (count := file.readinto(buffer[: min(READ_BYTES, end - start)])):
            yield buffer[:count]
            start += count


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the parts of a file in order: start, end, and whether it is data or a hole (lseek(2))."""
    position = 0
    while position < size:
        try:
            data = min(os.lseek(descriptor, position, os.SEEK_DATA), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                # This file system does not report holes.
                yield position, size, True
                return
            data = size
        if data > position:
            yield position, data, False
        if data < size:
            hole = min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
            yield data, hole, True
            data = hole
        position = data
