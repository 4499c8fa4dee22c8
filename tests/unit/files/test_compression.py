"""Compressed files are recognised by their first bytes and decompressed as a stream."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest

from publisher.core.errors import InvalidRequest
from publisher.files.compression import HEAD_BYTES, Unpacker, compression_of, unpacked_name, without_suffix
from tests.compressed import COMPRESS, xz_with_a_dictionary_of, zst_with_a_window_of

CONTENT = hashlib.shake_256(b"disk").digest(200_000) + bytes(3 << 20) + b"a disk" * 50_000


@cache
def packed_content(kind: str) -> bytes:
    return COMPRESS[kind](CONTENT)


def unpacked(packed: bytes, step: int = 1 << 20) -> bytes:
    compression = compression_of(packed[:HEAD_BYTES])
    assert compression is not None
    unpacker = Unpacker(compression, "body")
    blocks = [block for start in range(0, len(packed), step) for block in unpacker.unpack(packed[start : start + step])]
    unpacker.finish()
    assert max(map(len, blocks), default=0) <= 1 << 20, "no more of it is in memory at a time"
    return b"".join(blocks)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("step", [97, 65536, 8 << 20])
def test_file_in_pieces_of_any_size_is_decompressed(kind: str, step: int) -> None:
    packed = packed_content(kind)
    found = compression_of(packed[:HEAD_BYTES])
    assert found is not None
    assert found.name == kind
    assert unpacked(packed, step) == CONTENT


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("step", [1, 8 << 20])
def test_several_members_become_one_file(kind: str, step: int) -> None:
    pack = COMPRESS[kind]
    assert unpacked(pack(b"one") + pack(b"") + pack(b"two" * 1000), step) == b"one" + b"two" * 1000


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_trailing_zeros_are_ignored(kind: str) -> None:
    assert unpacked(COMPRESS[kind](b"disk") + bytes(512)) == b"disk"


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("step", [97, 8 << 20])
def test_incomplete_file_is_refused(kind: str, step: int) -> None:
    packed = packed_content(kind)
    for cut in (len(packed) - 1, len(packed) // 2):
        with pytest.raises(InvalidRequest, match=f"body: the {kind} file is incomplete: its end is missing"):
            unpacked(packed[:cut], step)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("garbage", [b"x", b"something else, and more of it"])
def test_file_followed_by_other_data_is_refused(kind: str, garbage: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"the {kind} file is followed by other data"):
        unpacked(packed_content(kind) + garbage)


@pytest.mark.parametrize("kind", COMPRESS)
def test_damaged_file_is_refused(kind: str) -> None:
    packed = bytearray(packed_content(kind))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(InvalidRequest, match=f"the {kind} file is damaged"):
        unpacked(bytes(packed))


@pytest.mark.parametrize("packed", [xz_with_a_dictionary_of(1 << 29), zst_with_a_window_of(30)], ids=["xz", "zst"])
def test_file_that_needs_too_much_memory_is_refused(packed: bytes) -> None:
    with pytest.raises(InvalidRequest, match="takes too much memory to be unpacked"):
        unpacked(packed)


@pytest.mark.parametrize(
    "head", [b"", b"\x1f\x8b", b"\x1f\x8b\x08\xff", b"BZh9 is no block", b"BZip", b"\xeb\x63\x90", bytes(10)]
)
def test_uncompressed_file_is_not_taken_for_a_compressed_one(head: bytes) -> None:
    assert compression_of(head[:HEAD_BYTES]) is None


@pytest.mark.parametrize(
    ("name", "kind", "inside"),
    [
        ("disk.qcow2.xz", "xz", "disk.qcow2"),
        ("disk.img.GZ", "gz", "disk.img"),
        ("disk.zstd", "zst", "disk"),
        ("disk.qcow2.gz", "xz", "disk.qcow2.gz"),
        ("disk.qcow2", "bz2", "disk.qcow2"),
        (".gz", "gz", ".gz"),
    ],
)
def test_suffix_matching_the_compression_is_removed(name: str, kind: str, inside: str) -> None:
    compression = compression_of(COMPRESS[kind](b"")[:HEAD_BYTES])
    assert unpacked_name(name, compression) == inside
    assert unpacked_name(name, None) == name


def test_any_compression_suffix_is_removed() -> None:
    assert without_suffix("disk.qcow2.bz2") == "disk.qcow2"
    assert without_suffix("disk.qcow2") == "disk.qcow2"
