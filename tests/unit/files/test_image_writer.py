"""An image file that arrives in pieces is written sparsely, decompressed within limits, hashed and verified."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from publisher.core.errors import ImageTooLarge, InvalidRequest
from publisher.core.image import Checksums, checksum
from publisher.files.hashing import digest, pieces
from publisher.files.image_writer import ImageWriter, UnpackLimits, Written, clone
from tests.compressed import COMPRESS

MIB = 1 << 20
DATA = hashlib.shake_256(b"disk").digest(300_000)
SPARSE = DATA + bytes(8 * MIB) + DATA + bytes(4 * MIB)
LIMITS = UnpackLimits(bytes_max=1 << 40, ratio_max=200)


def written(
    path: Path, content: bytes, *, limits: UnpackLimits = LIMITS, step: int = 65536, expected: Checksums = ()
) -> Written:
    with ImageWriter(path, limits, field="body", expected=expected) as writer:
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
        assert writer.received == len(content)
        return writer.finish()


def room(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("step", "content"),
    [(3, SPARSE[:40_000] + bytes(5)), (65536, SPARSE), (5 * MIB, SPARSE)],
    ids=["3 bytes", "64 KiB", "5 MiB"],
)
def test_image_is_written_unchanged_and_sparsely(tmp_path: Path, step: int, content: bytes) -> None:
    done = written(tmp_path / "disk", content, step=step)
    assert (tmp_path / "disk").read_bytes() == content
    assert done.compression is None
    assert done.digests == digest(tmp_path / "disk")
    assert (done.digests.size, done.digests.sha512) == (len(content), hashlib.sha512(content).hexdigest())
    assert room(tmp_path / "disk") < 2 * MIB


@pytest.mark.long
@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_image_is_decompressed_and_hashed(tmp_path: Path, kind: str) -> None:
    done = written(tmp_path / "disk", COMPRESS[kind](SPARSE))
    assert (tmp_path / "disk").read_bytes() == SPARSE
    assert done.compression is not None
    assert done.compression.name == kind
    assert done.digests.sha256 == hashlib.sha256(SPARSE).hexdigest()
    assert room(tmp_path / "disk") < 2 * MIB


@pytest.mark.long
def test_zeros_take_no_space_and_are_accepted_at_any_ratio(tmp_path: Path) -> None:
    packed = COMPRESS["zst"](bytes(64 * MIB)) * 4
    assert len(packed) < 10_000
    done = written(tmp_path / "disk", packed)
    assert (tmp_path / "disk").stat().st_size == done.digests.size == 256 * MIB
    assert room(tmp_path / "disk") < MIB


def test_trailing_zeros_count_towards_the_size(tmp_path: Path) -> None:
    written(tmp_path / "disk", b"x" + bytes(MIB))
    assert (tmp_path / "disk").stat().st_size == MIB + 1


@pytest.mark.long
@pytest.mark.parametrize("kind", COMPRESS)
def test_decompression_bomb_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.files.image_writer._FREE_BYTES", MIB)
    bomb = COMPRESS[kind](b"bomb" * MIB)
    with pytest.raises(ImageTooLarge, match="unpacks to more than 3 times its size"):
        written(tmp_path / "disk", bomb, limits=UnpackLimits(bytes_max=1 << 40, ratio_max=3))
    assert (tmp_path / "disk").stat().st_size < 3 * MIB
    written(tmp_path / "other", bomb, limits=UnpackLimits(bytes_max=1 << 40, ratio_max=0))


@pytest.mark.long
@pytest.mark.parametrize("kind", COMPRESS)
def test_image_over_the_size_limit_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ImageTooLarge, match="unpacked, the image is larger than 1000000 bytes"):
        written(tmp_path / "disk", COMPRESS[kind](SPARSE), limits=UnpackLimits(1_000_000, 0))
    assert (tmp_path / "disk").stat().st_size <= 1_000_000


def test_image_compressed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="body: is compressed twice: there is a gz file inside"):
        written(tmp_path / "disk", COMPRESS["xz"](COMPRESS["gz"](DATA)))


@pytest.mark.long
def test_long_decompression_can_be_stopped(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 3:
            raise Stop

    with ImageWriter(tmp_path / "disk", LIMITS, field="body", check=check) as writer, pytest.raises(Stop):
        writer.write(COMPRESS["gz"](bytes(64 * MIB)))


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
@pytest.mark.parametrize("kind", [None, *COMPRESS])
def test_checksum_of_the_sent_or_the_decompressed_file_is_accepted(
    tmp_path: Path, algorithm: str, kind: str | None
) -> None:
    sent = COMPRESS[kind](DATA) if kind else DATA

    def of(content: bytes) -> Checksums:
        value = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
        return (checksum(algorithm, value.upper(), "sum"),)

    written(tmp_path / "as sent", sent, expected=of(sent))
    # The checksum of the disk inside is accepted, too: many vendors publish that one.
    written(tmp_path / "inside", sent, expected=of(DATA))
    with pytest.raises(InvalidRequest, match=f"sum: the image's {algorithm} is "):
        written(tmp_path / "another", sent, expected=of(b"another"))
    with pytest.raises(InvalidRequest, match="sum: "):
        written(tmp_path / "one of two", sent, expected=of(sent) + of(b"another"))


@pytest.mark.parametrize("text", ["", "xyz", "0" * 31, "0" * 33, "g" * 32])
def test_malformed_checksum_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="sum: is no md5 checksum; give its 32 hexadecimal digits"):
        checksum("md5", text, "sum")


@pytest.mark.parametrize("kind", [None, *COMPRESS])
def test_writing_stops_at_the_free_space_limit(
    tmp_path: Path, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publisher.files.image_writer._CHECK_FREE_BYTES", 100_000)
    free = iter([1000, 1000, 999])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=next(free)))
    limits = UnpackLimits(bytes_max=1 << 40, ratio_max=0, free_bytes_min=1000)
    parts = [bytes([number]) * 65536 for number in range(1, 9)]
    content = b"".join(COMPRESS[kind](part) if kind else part for part in parts)
    with pytest.raises(OSError, match="No space left on device"):
        written(tmp_path / "disk", content, limits=limits)


def test_symlink_at_the_target_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Too many levels"):
        written(tmp_path / "disk", DATA)
    assert not (tmp_path / "elsewhere").exists()


# Sparse files ------------------------------------------------------------------------------------------------------


def sparse(path: Path) -> Path:
    """8 GiB, of which 2 MiB are data."""
    with path.open("wb") as file:
        for offset in (0, 3 << 30):
            file.seek(offset)
            file.write(DATA * 3)
        file.truncate(8 << 30)
    return path


def test_holes_of_a_sparse_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    class Counting(io.FileIO):
        def readinto(self, buffer: Any, /) -> int:
            nonlocal read
            count = super().readinto(buffer) or 0
            read += count
            return count

    with Counting(sparse(tmp_path / "disk")) as file:
        size = sum(len(piece) for piece in pieces(file))
    assert size == 8 << 30
    assert read < 4 * MIB


def test_file_is_read_completely_without_support_for_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "disk").write_bytes(SPARSE)
    monkeypatch.setattr(os, "lseek", unsupported)
    with io.FileIO(tmp_path / "disk") as file:
        assert b"".join(bytes(piece) for piece in pieces(file)) == SPARSE


def test_clone_asks_the_file_system_to_share_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def ioctl(target: Any, request: int, source: int) -> int:
        asked.append((request, str(Path(f"/proc/self/fd/{source}").readlink())))
        return 0

    (tmp_path / "disk").write_bytes(DATA)
    with io.FileIO(tmp_path / "disk") as file:
        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        assert clone(file, tmp_path / "clone")
    assert asked == [(0x40049409, str(tmp_path / "disk"))], "FICLONE (linux/fs.h)"
