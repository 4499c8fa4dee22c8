"""Compressed files (gz, xz, zst, bz2): recognised by their first bytes and unpacked as a stream, in bounded memory."""

from __future__ import annotations

import bz2
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from publisher.core.errors import InvalidRequest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEAD_BYTES = 10
"""How many bytes at the start of a file show whether it is compressed."""

_BLOCK_BYTES = 1 << 20
"""Maximum size of an unpacked block."""
_FED_BYTES = 32 << 10
"""Packed bytes processed at a time. The rest is copied after each member, and there may be very many members."""
_WINDOW_LOG_MAX = 27
"""Logarithm of 128 MiB, which `zstd --ultra -22` needs. Only `--long` needs more."""
_XZ_MEMORY_MAX = 256 << 20
"""In bytes. `xz -9` needs 65 MiB."""


class _Decompressor(Protocol):
    """The common interface of lzma, bz2 and zstd. Unpacks one member (stream, frame)."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """Adapts zlib, which has a different interface."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        block = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # More output may be pending although all input was taken.
        self._full = len(block) == max_length
        return block


@dataclass(frozen=True, slots=True)
class Compression:
    """A compression format."""

    name: str
    suffixes: tuple[str, ...]
    magic: re.Pattern[bytes]
    """The beginning of each member."""
    magic_bytes: int
    member: Callable[[], _Decompressor]
    padded: bool = False
    """Whether zeros may follow a member, as on tapes."""


def _zst() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX})


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_MAX)


_KNOWN = (
    # RFC 1952: deflate, and none of the reserved flags.
    Compression("gz", (".gz", ".gzip"), re.compile(rb"\x1f\x8b\x08[\x00-\x1f]", re.DOTALL), 4, _Gzip, padded=True),
    Compression("xz", (".xz",), re.compile(rb"\xfd7zXZ\x00"), 6, _xz, padded=True),
    # RFC 8878: a frame, or a skippable frame.
    Compression("zst", (".zst", ".zstd"), re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), 4, _zst),
    # "BZh", the level, and the digits of pi (first block) or of its square root (end of the stream).
    Compression(
        "bz2", (".bz2",), re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), 10, bz2.BZ2Decompressor
    ),
)  # fmt: skip
_BROKEN = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError)
"""Exceptions that the libraries raise. bz2 raises OSError."""


def compression_of(head: bytes) -> Compression | None:
    """Return the compression of a file with this beginning; None if it is not compressed.

    `head` has `HEAD_BYTES` bytes, or is the whole file.
    """
    return next((each for each in _KNOWN if each.magic.match(head)), None)


def unpacked_name(file_name: str, compression: Compression | None) -> str:
    """Return the name of the file inside: without the suffix of the compression."""
    if compression is None:
        return file_name
    found = next((each for each in compression.suffixes if file_name.lower().endswith(each)), "")
    return file_name[: len(file_name) - len(found)] or file_name


def without_suffix(file_name: str) -> str:
    """Return a file's name without the suffix of any compression, for when the content is not known yet."""
    for each in _KNOWN:
        if (name := unpacked_name(file_name, each)) != file_name:
            return name
    return file_name


class Unpacker:
    """Unpacks a compressed file that arrives piece by piece."""

    def __init__(self, compression: Compression, field: str) -> None:
        """`field` is what errors name as invalid if the file cannot be unpacked."""
        self._compression = compression
        self._field = field
        self._member: _Decompressor | None = None
        self._held = b""
        """The beginning of the next member, while it is too short to be recognised."""

    def unpack(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """Yield the content of this piece, at most 1 MiB at a time. Raises `InvalidRequest`."""
        view = memoryview(piece)
        for start in range(0, len(view), _FED_BYTES):
            yield from self._unpack(bytes(view[start : start + _FED_BYTES]))

    def finish(self) -> None:
        """Check that the file is complete. Raises `InvalidRequest`."""
        if self._member is not None:
            raise self._refused("is incomplete: its end is missing; send all of it")
        if self._held:
            raise self._followed()

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._member is None and not (data := self._begin(data)):
                return
            block, data = self._step(data)
            if block:
                yield block
            if not data and (self._member is None or self._member.needs_input):
                return

    def _begin(self, data: bytes) -> bytes:
        """Begin the next member, if there is one. Return its data so far. Raises `InvalidRequest`."""
        data, self._held = self._held + data, b""
        if self._compression.padded:
            data = data.lstrip(b"\0")
        if len(data) < self._compression.magic_bytes:
            self._held = data
            return b""
        if not self._compression.magic.match(data):
            raise self._followed()
        self._member = self._compression.member()
        return data

    def _step(self, data: bytes) -> tuple[bytes, bytes]:
        """Unpack one block. Return it, and the data after the end of the member. Raises `InvalidRequest`."""
        assert self._member is not None  # noqa: S101  # `_begin` was called
        try:
            block = self._member.decompress(data, _BLOCK_BYTES)
        except _BROKEN as error:
            if "memory" in str(error).lower():
                raise self._refused(
                    "takes too much memory to be unpacked; compress it with a smaller window (zstd: without --long)"
                ) from None
            raise self._refused("is damaged and cannot be unpacked; send it again") from None
        if not self._member.eof:
            return block, b""
        rest, self._member = self._member.unused_data, None
        return block, rest

    def _followed(self) -> InvalidRequest:
        return self._refused("is followed by other data; send the compressed image alone")

    def _refused(self, words: str) -> InvalidRequest:
        return InvalidRequest(f"the {self._compression.name} file {words}", field=self._field)
