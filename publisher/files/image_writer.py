"""Writes an image file that arrives piece by piece.

Unpacks it if it is compressed, leaves runs of zeros out as holes, and hashes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from publisher.core.errors import ImageTooLarge, InvalidRequest
from publisher.core.image import Checksums, Digests, check_checksums
from publisher.core.settings import Settings
from publisher.files.compression import HEAD_BYTES, Compression, Unpacker, compression_of
from publisher.files.hashing import ZEROS, Hasher

_RUN_BYTES = 64 << 10
"""How many zeros in a row become a hole."""
_FREE_BYTES = 64 << 20
"""Size that any compressed image may unpack to, however small it is."""
_FREE_ZERO_BYTES = 64 << 30
"""The same for its zeros, which take time but no space."""
_CHECK_FREE_BYTES = 64 << 20
"""How many bytes are written before the free space is checked again."""
_ZEROS_PER_BYTE = 32
"""How many zeros count as one byte."""
_FICLONE = 0x40049409
"""ioctl_ficlonerange(2)."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """How large a compressed image may become, and how much space any image must leave free. In bytes."""

    bytes_max: int = 1 << 40
    ratio_max: int = 200
    """How many bytes each compressed byte may unpack to; 0: unlimited."""
    free_bytes_min: int = 0

    @classmethod
    def of(cls, settings: Settings) -> UnpackLimits:
        return cls(settings.upload_bytes_max, settings.unpack_ratio_max, settings.disk_free_bytes_min)


UNPACK_LIMITS = UnpackLimits()
"""The limits of the default settings."""


@dataclass(frozen=True, slots=True)
class Written:
    """A complete image file."""

    digests: Digests
    """Digests of the unpacked disk."""
    compression: Compression | None
    """How the image was compressed; None if it was not."""


class ImageWriter:
    """Writes one image file. Use as a context manager. If the file is not finished, the caller must delete it.

    `write` and `finish` raise `InvalidRequest` for a file that cannot be unpacked, `ImageTooLarge` for one that would
    become too large, and `OSError`, for example if the disk is full.
    """

    def __init__(
        self,
        path: Path,
        limits: UnpackLimits,
        *,
        field: str,
        expected: Checksums = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`field` is what errors name as invalid. `check` is called regularly while unpacking; it may raise."""
        self.received = 0
        """Number of bytes received."""
        self._path = path
        self._limits = limits
        self._field = field
        self._expected = expected
        self._check = check
        self._head = b""
        self._begun = False
        self._compression: Compression | None = None
        self._unpacker: Unpacker | None = None
        self._inner_head = b""
        self._hasher = Hasher()
        self._data_bytes = 0
        self._check_free_at = 0
        """The number of data bytes at which the free space is checked next."""
        self._sent_hashes = {each.algorithm: hashlib.new(each.algorithm, usedforsecurity=False) for each in expected}

    def __enter__(self) -> Self:
        # We created the file, or the holder of its lock did. O_NOFOLLOW: never open a link that was put in its place.
        self._file = io.FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, piece: bytes | memoryview) -> None:
        self.received += len(piece)
        if self._begun:
            self._take(piece)
            return
        self._head += bytes(piece)
        if len(self._head) >= HEAD_BYTES:
            self._begin()

    def finish(self) -> Written:
        """Finish the file once all has arrived, and make it durable.

        Raises `InvalidRequest` if the image is incomplete or has another checksum than the caller declared.
        """
        if not self._begun:
            self._begin()
        if self._unpacker is not None:
            self._unpacker.finish()
        digests = self._hasher.digests()
        found = [digests.by_algorithm()]
        if self._unpacker is not None:
            found.insert(0, {name: each.hexdigest() for name, each in self._sent_hashes.items()})
        check_checksums(self._expected, *found)
        # The image may end with a hole.
        os.ftruncate(self._file.fileno(), self._hasher.size)
        os.fsync(self._file.fileno())
        return Written(digests, self._compression)

    def _begin(self) -> None:
        head, self._head, self._begun = self._head, b"", True
        self._compression = compression_of(head)
        if self._compression is not None:
            self._unpacker = Unpacker(self._compression, self._field)
        self._take(head)

    def _take(self, piece: bytes | memoryview) -> None:
        if self._unpacker is None:
            self._write(piece)
            return
        for each in self._sent_hashes.values():
            each.update(piece)
        for block in self._unpacker.unpack(piece):
            self._check()
            if len(self._inner_head) < HEAD_BYTES:
                self._inner_head += block[:HEAD_BYTES]
                if inner := compression_of(self._inner_head):
                    raise InvalidRequest(
                        f"is compressed twice: there is a {inner.name} file inside; compress the disk image once",
                        field=self._field,
                    )
            if self._hasher.size + len(block) > self._limits.bytes_max:
                raise ImageTooLarge(f"unpacked, the image is larger than {self._limits.bytes_max} bytes")
            self._write(block)
            self._check_ratio()

    def _check_ratio(self) -> None:
        allowed = self._limits.ratio_max * self.received
        zeros = self._hasher.size - self._data_bytes
        if self._limits.ratio_max and (
            self._data_bytes > _FREE_BYTES + allowed or zeros > _FREE_ZERO_BYTES + _ZEROS_PER_BYTE * allowed
        ):
            raise ImageTooLarge(
                f"the image unpacks to more than {self._limits.ratio_max} times its size"
                " (PUBLISHER_UNPACK_RATIO_MAX); send it uncompressed"
            )

    def _write(self, piece: bytes | memoryview) -> None:
        """Write the data, except zeros, and hash all of it."""
        view, offset, end = memoryview(piece), self._hasher.size, 0
        for start in range(0, len(view), _RUN_BYTES):
            run = view[start : start + _RUN_BYTES]
            if bytes(run) == ZEROS[: len(run)]:
                self._write_all(view[end:start], offset + end)
                end = start + len(run)
        self._write_all(view[end:], offset + end)
        self._hasher.update(view)

    def _write_all(self, data: memoryview, offset: int) -> None:
        if self._limits.free_bytes_min and self._data_bytes >= self._check_free_at:
            self._check_free_at = self._data_bytes + _CHECK_FREE_BYTES
            if shutil.disk_usage(self._path.parent).free < self._limits.free_bytes_min:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._data_bytes += len(data)
        while data:
            count = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[count:], offset + count


def clone(source: io.FileIO, path: Path) -> bool:
    """Create a file that shares its blocks with `source`, without reading or writing. False if unsupported."""
    with path.open("xb") as file:
        try:
            fcntl.ioctl(file, _FICLONE, source.fileno())
        except OSError:
            return False
        os.fsync(file.fileno())
    return True
