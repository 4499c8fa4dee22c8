"""Compressed files (gz, xz, zst, bz2): recognised by their first bytes, and unpacked as a stream, in bounded memory."""

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
"""Of a file, from which it is told whether it is compressed."""

_BLOCK_BYTES = 1 << 20
"""Unpacked at a time."""
_FED_BYTES = 32 << 10
"""Packed bytes looked at a time: what is left of them after a member is copied, and there may be very many members."""
_WINDOW_LOG_MAX = 27
"""128 MiB: what `zstd --ultra -22` needs. Only `--long` asks for more."""
_XZ_MEMORY_MAX = 256 << 20
"""`xz -9` needs 65 MiB."""


class _Decompressor(Protocol):
    """What lzma, bz2 and zstd have in common. It unpacks one member (stream, frame)."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's, which has another interface."""

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
        # More may be inside, though all input is taken.
        self._full = len(block) == max_length
        return block


@dataclass(frozen=True, slots=True)
class Compression:
    """A way that files are compressed."""

    name: str
    suffixes: tuple[str, ...]
    magic: re.Pattern[bytes]
    """Of each member."""
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
    # RFC 8878: a frame, or one that is skipped.
    Compression("zst", (".zst", ".zstd"), re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), 4, _zst),
    # "BZh", the level, and pi or its square root: of the first block, or of the end.
    Compression(
        "bz2", (".bz2",), re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), 10, bz2.BZ2Decompressor
    ),
)  # fmt: skip
_BROKEN = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError)
"""What the libraries raise. bz2 raises OSError."""


def compression_of(head: bytes) -> Compression | None:
    """How a file is compressed that begins so; None where it is not. `head` has `HEAD_BYTES`, or is the whole file."""
    return next((each for each in _KNOWN if each.magic.match(head)), None)


def unpacked_name(file_name: str, compression: Compression | None) -> str:
    """The name of the file inside: without the suffix that tells of the compression."""
    if compression is None:
        return file_name
    found = next((each for each in compression.suffixes if file_name.lower().endswith(each)), "")
    return file_name[: len(file_name) - len(found)] or file_name


def without_suffix(file_name: str) -> str:
    """A file's name without the suffix of any compression: what is inside is not known yet."""
    for each in _KNOWN:
        if (name := unpacked_name(file_name, each)) != file_name:
            return name
    return file_name


class Unpacker:
    """Unpacks a compressed file that comes piece by piece."""

    def __init__(self, compression: Compression, field: str) -> None:
        """`field` is what is at fault where it cannot be unpacked."""
        self._compression = compression
        self._field = field
        self._member: _Decompressor | None = None
        self._held = b""
        """The beginning of the next member, too short to be recognised."""

    def unpack(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """What was in that piece, at most 1 MiB at a time. Raises `InvalidRequest`."""
        view = memoryview(piece)
        for start in range(0, len(view), _FED_BYTES):
            yield from self._unpack(bytes(view[start : start + _FED_BYTES]))

    def finish(self) -> None:
        """Raises `InvalidRequest` where the file is not complete."""
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
        """Begin the next member, if there is one; what there is of it. Raises `InvalidRequest`."""
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
        """Unpack some; and what was left over after the end of the member. Raises `InvalidRequest`."""
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
