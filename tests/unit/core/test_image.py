"""What a disk image file is, by its content; and that its file is reached in no way but straight down the root."""

import hashlib
import os
import struct
import threading
from pathlib import Path

import pytest

from publisher.core.disk_format import examine
from publisher.core.errors import ImageFileError, InvalidRequest
from publisher.core.hashing import digest
from publisher.core.image import open_under
from tests.patience import PATIENCE

GIB = 1 << 30


def qcow2(virtual_size: int, version: int = 3) -> bytes:
    """A header as `qemu-img create` writes it (QEMU docs/interop/qcow2.txt), and its first clusters."""
    l1_offset, refcount_table_offset = 0x30000, 0x10000
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", version, 0, 0, 16, virtual_size, 0, 16, l1_offset, refcount_table_offset, 1, 0, 0),
        *(0, 0, 0, 4, 112),
    )
    return header.ljust(0x40000, b"\0")


def vmdk(virtual_size: int) -> bytes:
    return (b"KDMV" + struct.pack("<IIQ", 3, 3, virtual_size // 512)).ljust(4096, b"\0")


def vdi(virtual_size: int) -> bytes:
    header = b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe"
    return (header.ljust(368, b"\0") + struct.pack("<Q", virtual_size)).ljust(4096, b"\0")


ISO = bytearray(20 * 2048)
ISO[0x8000:0x8006] = b"\x01CD001"

FILES = {
    "qcow2": (qcow2(20 * GIB), "qcow2", 20 * GIB),
    "qcow2 of version 2": (qcow2(3 * GIB, 2), "qcow2", 3 * GIB),
    "qcow2 cut in its magic": (b"QFI\xfb", "raw", 4),
    "vmdk": (vmdk(5 * GIB), "vmdk", 5 * GIB),
    "vmdk cut after its magic": (b"KDMV", "vmdk", 4),
    "vmdk descriptor": (b"# Disk DescriptorFile\nversion=1\n", "vmdk", 32),
    "vdi": (vdi(7 * GIB), "vdi", 7 * GIB),
    "vhd, fixed": (bytes(1024) + b"conectix".ljust(512, b"\0"), "vhd", 1536),
    "vhd, dynamic": (b"conectix".ljust(512, b"\0") + bytes(2048), "vhd", 2560),
    "iso": (bytes(ISO), "iso", len(ISO)),
    "nothing known": (b"\x55\xaa" * 700, "raw", 1400),
    "one byte": (b"x", "raw", 1),
    "a footer's word in the middle": (bytes(600) + b"conectix" + bytes(2000), "raw", 2608),
}


@pytest.mark.parametrize("name", FILES)
def test_identify(name: str, tmp_path: Path) -> None:
    content, disk_format, virtual_size = FILES[name]
    (tmp_path / "image").write_bytes(content)
    disk = examine(tmp_path / "image", wanted_format=None, file_name="image")
    assert (disk.disk_format, disk.virtual_size) == (disk_format, virtual_size)


CONTENTS = {name: content for name, (content, _, _) in FILES.items()} | {
    "raw": b"\x55\xaa" * 700,
    "vhd": bytes(1024) + b"conectix".ljust(512, b"\0"),
}


@pytest.mark.parametrize(
    ("name", "disk_format", "canonical"),
    [
        (None, "qcow2", "qcow2"),
        (None, "iso", "ISO"),
        (None, "vdi", "openstackvdi"),
        (None, "vhd", "openstackvhd"),
        (None, "raw", "raw"),
        (None, "vmdk", "openstackvmdk"),
        ("qcow2", "qcow2", "qcow2"),
        ("QCOW2", "qcow2", "qcow2"),
        ("openstackqcow2", "qcow2", "openstackqcow2"),
        ("iso", "iso", "ISO"),
        ("raw", "iso", "raw"),
        ("vdi", "vdi", "openstackvdi"),
        ("Azure", "vhd", "azure"),
        ("google", "raw", "google"),
    ],
)
def test_the_contracts_name_of_a_format(name: str | None, disk_format: str, canonical: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(CONTENTS[disk_format])
    assert examine(tmp_path / "image", wanted_format=name, file_name="image").format == canonical


@pytest.mark.parametrize(
    ("name", "disk_format", "words"),
    [
        ("qcow2", "raw", "'qcow2' means a qcow2 file, but the file is raw"),
        ("raw", "qcow2", "'raw' means a raw file, but the file is qcow2"),
        ("vmdk", "vdi", "but the file is vdi"),
        ("floppy", "raw", "'floppy' is unknown; known are .*openstackqcow2"),
        ("", "raw", "unknown"),
    ],
)
def test_a_format_that_the_file_is_not(name: str, disk_format: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(CONTENTS[disk_format])
    with pytest.raises(InvalidRequest, match=words) as raised:
        examine(tmp_path / "image", wanted_format=name, file_name="image")
    assert raised.value.field == "format"


def test_a_disk_larger_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(qcow2(20 * GIB))
    with pytest.raises(InvalidRequest, match="the largest allowed is 1073741824"):
        examine(tmp_path / "image", wanted_format=None, file_name="image", virtual_size_max=GIB)


def test_digest_reads_the_file_once_and_tells_how_far(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) * 2 + 12345)
    (tmp_path / "image").write_bytes(content)
    steps: list[int] = []
    told = digest(tmp_path / "image", steps.append)
    assert told.size == sum(steps) == len(content)
    assert len(steps) >= 3
    assert told.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert told.sha256 == hashlib.sha256(content).hexdigest()
    assert told.sha512 == hashlib.sha512(content).hexdigest()


# open_under -----------------------------------------------------


def descriptors() -> list[str]:
    return sorted(str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "disk").write_bytes(b"content")
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "inner-link").symlink_to(root / "a" / "b" / "disk")
    (root / "linked").symlink_to(tmp_path)
    (root / "inner-linked").symlink_to(root / "a")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("location", ["a/b/disk", "./a/b/disk", "a//b/disk"])
def test_a_file_under_the_root_is_opened(root: Path, location: str) -> None:
    descriptor = open_under(root, location)
    try:
        assert os.read(descriptor, 100) == b"content"
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../outside", "outside the image root"),
        ("a/../../outside", "outside the image root"),
        ("a/b/../b/disk", "outside the image root"),
        ("/etc/passwd", "outside the image root"),
        ("", "outside the image root"),
        (".", "outside the image root"),
        ("link", "cannot be opened"),
        ("inner-link", "cannot be opened"),
        ("linked/outside", "cannot be opened"),
        ("inner-linked/b/disk", "cannot be opened"),
        ("a", "not a regular file"),
        ("pipe", "not a regular file"),
        ("a/b/disk/more", "cannot be opened"),
        ("a/none", "no longer there; generate the image again"),
        ("none/disk", "no longer there"),
        ("a/b/disk\0", "cannot be opened|outside the image root"),
    ],
)
def test_anything_else_is_refused(root: Path, location: str, words: str) -> None:
    before = descriptors()
    with pytest.raises(ImageFileError, match=words):
        open_under(root, location)
    assert descriptors() == before


def test_a_root_that_is_not_there_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="image root"):
        open_under(tmp_path / "unmounted", "disk")


def test_a_pipe_with_a_writer_does_not_hang(root: Path) -> None:
    writer = os.open(root / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        outcome: list[BaseException] = []

        def attempt() -> None:
            try:
                open_under(root, "pipe")
            except ImageFileError as error:
                outcome.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(5 * PATIENCE)
        assert outcome
    finally:
        os.close(writer)
