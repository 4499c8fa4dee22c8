"""The content of a file tells its format, the size of the disk inside, or why it cannot be registered."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from publisher.core.errors import InvalidRequest
from publisher.files.disk_format import DiskFile, examine
from tests import disks
from tests.disks import GIB, KIB, MIB, SECTOR, TIB

Examine = Callable[..., DiskFile]


@pytest.fixture
def look(tmp_path: Path) -> Examine:
    def examine_content(content: bytes, *, wanted: str | None = None, name: str = "disk", **more: int) -> DiskFile:
        (tmp_path / "file").write_bytes(content)
        return examine(tmp_path / "file", wanted_format=wanted, file_name=name, **more)

    return examine_content


def put(content: bytes, at: int, kind: str, *values: int | bytes) -> bytes:
    """Return the content with other numbers at an offset. A negative offset counts from the end."""
    changed = bytearray(content)
    struct.pack_into(kind, changed, at if at >= 0 else len(content) + at, *values)
    return bytes(changed)


# Formats and sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "disk_format", "size"),
    [
        pytest.param(disks.qcow2(20 * GIB), "qcow2", 20 * GIB, id="qcow2"),
        pytest.param(disks.qcow2(3 * GIB, version=2), "qcow2", 3 * GIB, id="qcow2 of version 2"),
        pytest.param(disks.qcow2(20 * GIB, cluster_bits=16), "qcow2", 20 * GIB, id="qcow2 with large clusters"),
        pytest.param(disks.qcow2(20 * GIB, features=8), "qcow2", 20 * GIB, id="qcow2 with Zstandard"),
        pytest.param(disks.vmdk(5 * GIB), "vmdk", 5 * GIB, id="vmdk"),
        pytest.param(disks.vmdk(6 * GIB, streamed=True), "vmdk", 6 * GIB, id="vmdk, stream-optimized"),
        pytest.param(disks.vdi(7 * GIB), "vdi", 7 * GIB, id="vdi"),
        pytest.param(disks.vdi(7 * GIB, kind=2), "vdi", 7 * GIB, id="vdi of fixed size"),
        pytest.param(disks.vhd_dynamic(40 * GIB), "vhd", 40 * GIB, id="vhd, dynamic"),
        pytest.param(disks.vhd_fixed(bytes(MIB)), "vhd", MIB, id="vhd, fixed"),
        pytest.param(disks.vhd_fixed(disks.raw(bytes(MIB))), "vhd", MIB, id="vhd, fixed, with partitions"),
        pytest.param(disks.iso(20), "iso", 20 * 2048, id="iso"),
        pytest.param(disks.raw(disks.iso(20)), "iso", 20 * 2048, id="iso, hybrid"),
        pytest.param(disks.raw(bytes(MIB)), "raw", MIB, id="MBR"),
        pytest.param(put(bytes(MIB), 512, "8s", b"EFI PART"), "raw", MIB, id="GPT"),
        pytest.param(put(bytes(MIB), 0x438, "<H", 0xEF53), "raw", MIB, id="ext4"),
        pytest.param(put(bytes(MIB), 0, "4s", b"XFSB"), "raw", MIB, id="XFS"),
        pytest.param(put(bytes(MIB), 0x10040, "8s", b"_BHRfS_M"), "raw", MIB, id="Btrfs"),
        pytest.param(put(bytes(MIB), 3, "8s", b"NTFS    "), "raw", MIB, id="NTFS"),
        pytest.param(put(bytes(MIB), 4086, "10s", b"SWAPSPACE2"), "raw", MIB, id="swap"),
        pytest.param(put(bytes(MIB), 512, "8s", b"LABELONE"), "raw", MIB, id="LVM"),
    ],
)
def test_format_and_size_are_found_by_content(look: Examine, content: bytes, disk_format: str, size: int) -> None:
    disk = look(content)
    assert (disk.disk_format, disk.virtual_size, disk.warning) == (disk_format, size, None)


@pytest.mark.parametrize(
    ("name", "content", "canonical"),
    [
        (None, disks.iso(), "ISO"),
        (None, disks.vdi(), "openstackvdi"),
        (None, disks.vhd_dynamic(), "openstackvhd"),
        (None, disks.vmdk(), "openstackvmdk"),
        (None, disks.raw(), "raw"),
        ("openstackqcow2", disks.qcow2(), "openstackqcow2"),
        ("OpenStackQcow2", disks.qcow2(), "openstackqcow2"),
        ("kvm", disks.qcow2(), "kvm"),
        ("iso", disks.iso(), "ISO"),
        ("raw", disks.iso(), "raw"),
        ("vdi", disks.vdi(), "openstackvdi"),
        ("Azure", disks.vhd_fixed(), "azure"),
        ("google", disks.raw(), "google"),
    ],
)
def test_requested_format_gets_its_canonical_name(
    look: Examine, name: str | None, content: bytes, canonical: str
) -> None:
    disk = look(content, wanted=name)
    assert disk.format == canonical
    assert name != "raw" or disk.disk_format == "raw"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("qcow2", disks.raw(), "'[a-z]*qcow2' means a qcow2 file, but the file is raw"),
        ("raw", disks.qcow2(), "'raw' means a raw file, but the file is qcow2"),
        ("vmdk", disks.vdi(), "but the file is vdi"),
        ("floppy", disks.raw(), "'floppy' is unknown; known are .*openstackqcow2"),
        ("", disks.raw(), "unknown"),
    ],
)
def test_wrong_or_unknown_format_is_refused(look: Examine, name: str, content: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        look(content, wanted=name)
    assert raised.value.field == "format"


# Raw ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"hello world", bytes(MIB), b"\x01\x02\x03" * 1000], ids=["text", "zeros", "any"])
def test_unstructured_file_is_raw_only_on_request(look: Examine, content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="if it is a raw disk, say so by the format 'raw'"):
        look(content)
    disk = look(content, wanted="raw")
    assert (disk.disk_format, disk.virtual_size) == ("raw", len(content))
    assert disk.warning == "No partition table, boot sector or file system was found in the image; it may not boot"


def test_truncated_disk_causes_a_warning(look: Examine) -> None:
    gpt = put(disks.raw(bytes(MIB)), 512, "<8s24xQ", b"EFI PART", 2 * MIB // SECTOR - 1)
    assert "beyond the end of the image" in str(look(gpt).warning)
    assert "beyond the end of the image" in str(look(disks.raw(bytes(MIB))[: MIB // 2]).warning)
    assert look(put(gpt, 512 + 32, "<Q", MIB // SECTOR - 1)).warning is None


# Files that are not disks ---------------------------------------------------------------------------------------------


def ustar() -> bytes:
    return put(bytes(10 * KIB), 0, "4s253x6s", b"disk", b"ustar\0")


def old_tar() -> bytes:
    head = put(
        bytes(10 * KIB),
        0,
        "9s91x8s8s8s12s12s",
        b"disk.vmdk",
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"0" * 11,
        b"0" * 11,
    )
    total = sum(head[:512]) + 8 * 0x20
    return put(head, 148, "8s", b"%06o\0 " % total)


FOREIGN = {
    "tar": (ustar(), "is a tar archive .* `tar -xf disk`"),
    "tar without a magic number": (old_tar(), "is a tar archive .* `tar -xf disk`"),
    "zip": (b"PK\x03\x04" + bytes(100), "is a ZIP archive.* `unzip disk`"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "is a 7-Zip archive.* `7z x disk`"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(100), "is a RAR archive"),
    "cpio": (b"070701" + bytes(100), "is a cpio archive"),
    "ar": (b"!<arch>\n" + bytes(100), "is an ar archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "packed by gzip.* `gunzip disk`"),
    "xz": (b"\xfd7zXZ\0" + bytes(100), "packed by xz.* `unxz disk`"),
    "zst": (b"\x28\xb5\x2f\xfd" + bytes(100), "packed by Zstandard.* `unzstd disk`"),
    "bz2": (b"BZh91AY&SY" + bytes(100), "packed by bzip2.* `bunzip2 disk`"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(100), "packed by LZ4.* `unlz4 disk`"),
    "lzop": (b"\x89LZO\0\r\n\x1a\n" + bytes(100), "packed by lzop"),
    "vhdx": (b"vhdxfile" + bytes(MIB), "is a VHDX disk; run `qemu-img convert -O qcow2 disk disk.qcow2`"),
    "qed": (b"QED\0" + bytes(MIB), "is a QED disk; run `qemu-img convert"),
    "luks": (b"LUKS\xba\xbe\0\1" + bytes(MIB), "LUKS encrypts"),
    "parallels": (b"WithoutFreeSpace" + bytes(MIB), "is a Parallels disk; run `qemu-img convert"),
    "dmg": (bytes(MIB) + b"koly" + bytes(508), "is an Apple disk image"),
    "esx": (b"COWD" + bytes(MIB), "is a VMDK of ESX"),
    "esx, space-efficient": (b"\xbe\xba\xfe\xca" + bytes(MIB), "is a space-efficient VMDK"),
    "android": (b"\x3a\xff\x26\xed" + bytes(MIB), "`simg2img disk disk.img`"),
    "rpm": (b"\xed\xab\xee\xdb" + bytes(MIB), "is an RPM package"),
    "elf": (b"\x7fELF" + bytes(MIB), "is a program"),
    "kernel": (put(disks.raw(bytes(MIB)), 0x202, "4s", b"HdrS"), "is a Linux kernel"),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE HTML>\n<title>404</title>", "is a web page; open its address in a browser"),
    "html after a comment": (b"<!-- x -->\n<html lang='en'>", "is a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "is an XML document"),
    "ovf": (b'<?xml version="1.0"?>\n<!-- x --><Envelope xmlns="x">', "is an OVF description"),
    "json": (b'{"error": {"code": 404}}', "is a JSON document"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
}  # fmt: skip


@pytest.mark.parametrize("wanted", [None, "raw", "qcow2"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_file_that_is_not_a_disk_is_refused_with_any_format(look: Examine, kind: str, wanted: str | None) -> None:
    content, words = FOREIGN[kind]
    with pytest.raises(InvalidRequest, match=words):
        look(content, wanted=wanted)


def test_suggested_command_quotes_the_file_name(look: Examine) -> None:
    with pytest.raises(InvalidRequest) as raised:
        look(ustar(), name="my disk; rm -rf.ova")
    assert "`tar -xf 'my disk; rm -rf.ova'`" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("disk.qcow2", disks.raw(), "is named as a qcow2 file, but its content is not"),
        ("disk.qcow2", b"hello world", "is named as a qcow2 file, but its content is not"),
        ("disk.QCOW2", disks.vmdk(), "is named as a qcow2 file, but its content is vmdk"),
        ("disk.vmdk", disks.qcow2(), "is named as a vmdk file, but its content is qcow2"),
        ("disk.vhd", disks.raw(), "is named as a vhd file"),
        ("disk.vdi", disks.raw(), "is named as a vdi file"),
        ("disk.iso", disks.raw(), "is named as a iso file"),
        ("disk.vhdx", disks.raw(), "is named as a vhdx file"),
        ("disk.raw", disks.qcow2(), "is named as a raw file, but its content is qcow2"),
        ("disk.qcow2.part", disks.qcow2(), "an unfinished download"),
        ("disk.crdownload", disks.raw(), "an unfinished download"),
    ],
)
@pytest.mark.parametrize("say_raw", [False, True])
def test_file_name_that_contradicts_the_content_is_refused(
    look: Examine, name: str, content: bytes, words: str, say_raw: bool
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        look(content, name=name, wanted="raw" if say_raw else None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("disk.img", disks.qcow2()),
        ("disk", disks.vmdk()),
        ("disk-9.3", disks.qcow2()),
        ("disk.bin", disks.raw()),
        ("disk.raw", disks.raw()),
        ("disk.raw", disks.raw(disks.iso())),
        ("disk.iso", disks.raw(disks.iso())),
        ("disk.VHD", disks.vhd_fixed()),
    ],
)
def test_file_name_that_fits_the_content_is_accepted(look: Examine, name: str, content: bytes) -> None:
    assert look(content, name=name).virtual_size


# Disks that need other files ------------------------------------------------------------------------------------------


ELSEWHERE = {
    "qcow2 with a backing file": (put(disks.qcow2(), 8, ">QI", 0x200, 10), "qemu-img convert -O qcow2 disk flat.qcow2"),
    "qcow2 with a backing file, version 2": (
        put(disks.qcow2(version=2), 8, ">QI", 0x200, 10), "qemu-img convert -O qcow2 disk flat.qcow2"),
    "qcow2 with a data file": (disks.qcow2(features=4), "qemu-img convert -O qcow2 disk flat.qcow2"),
    "a VMDK's descriptor": (
        disks.descriptor("monolithicFlat", 'RW 9 FLAT "a-flat.vmdk" 0'), "subformat=streamOptimized disk"),
    "a VMDK's descriptor without its first line": (
        disks.descriptor("vmfs", 'RW 9 VMFS "/etc/passwd"').partition(b"\n")[2], "subformat=streamOptimized disk"),
    "a VMDK's descriptor with a long preface": (
        b"#" * 5000 + b"\n" + disks.descriptor("vmfs", 'RW 9 VMFS "/etc/passwd"'), "subformat=streamOptimized disk"),
    "one part of a VMDK": (put(disks.vmdk(), 28, "<QQ", 0, 0), "subformat=streamOptimized disk.vmdk"),
    "a VMDK with a parent": (disks.vmdk(text=disks.descriptor(parentCID="12345678")), "subformat=streamOptimized disk"),
    "a VMDK that names its parent": (
        disks.vmdk(text=disks.descriptor(parentFileNameHint='"base.vmdk"')), "subformat=streamOptimized disk"),
    "a VMDK of two files": (
        disks.vmdk(text=disks.descriptor(extents='RW 9 SPARSE "a.vmdk"\nRW 9 SPARSE "b.vmdk"')),
        "subformat=streamOptimized disk"),
    "a differencing VHD": (disks.vhd_dynamic(kind=4), "Convert-VHD -Path disk"),
    "a differencing VDI": (disks.vdi(kind=4), "VBoxManage clonemedium disk disk flat.vdi"),
    "a VDI with a parent": (put(disks.vdi(), 0x1B8, "16s", b"p" * 16), "VBoxManage clonemedium disk disk flat.vdi"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_incomplete_disk_is_refused_with_a_command_to_flatten_it(look: Examine, kind: str) -> None:
    content, command = ELSEWHERE[kind]
    with pytest.raises(InvalidRequest, match="incomplete by itself") as raised:
        look(content)
    assert command in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (disks.vmdk(text=disks.descriptor(extents='RW 9 SPARSE "/etc/passwd"')), "Invalid extent filenames"),
        (disks.vmdk(text=disks.descriptor("vmfsSparse")), "Unsupported subformat"),
        (disks.vmdk(text=b"\0"), "No descriptor found"),
        (disks.vmdk(text=disks.descriptor() + b"what is this\n"), "Invalid VMDK descriptor"),
        (put(disks.vmdk(), 28, "<Q", 2), "its header is invalid"),
        (put(disks.vmdk(), 4, "<I", 9), "its header is invalid"),
        (disks.qcow2(features=1 << 40), "Unknown QCOW2 features"),
        (disks.qcow2(features=16), "extended L2 entries.* -o extended_l2=off disk plain.qcow2"),
        (disks.qcow2(version=1), "qcow image of version 1"),
        (put(disks.qcow2(), 32, ">I", 2), "is an encrypted qcow2"),
        (put(disks.qcow2(cluster_bits=16), 0x8001, "5s", b"CD001"), "it is iso and qcow2 at the same time"),
    ],
)  # fmt: skip
def test_unsafe_or_unsupported_disk_is_refused(look: Examine, content: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        look(content)


# Inconsistent headers -------------------------------------------------------------------------------------------------


LIES = {
    "qcow2 of 2^63 bytes": put(disks.qcow2(), 24, ">Q", 1 << 63),
    "qcow2 of petabytes": put(disks.qcow2(), 24, ">Q", 1 << 52),
    "qcow2 of no bytes": put(disks.qcow2(), 24, ">Q", 0),
    "qcow2 with few L1 entries": put(disks.qcow2(), 36, ">I", 3),
    "qcow2 with 2^32 L1 entries": put(disks.qcow2(), 36, ">I", (1 << 32) - 1),
    "qcow2 with its L1 table beyond its end": put(disks.qcow2(), 40, ">Q", 1 << 40),
    "qcow2 with its L1 table off a cluster": put(disks.qcow2(), 40, ">Q", 8200),
    "qcow2 with an L2 table beyond its end": put(disks.qcow2(), 8192, ">Q", 1 << 63 | 1 << 40),
    "qcow2 with a cluster beyond its end": put(
        put(disks.qcow2(), 8192, ">Q", 12288) + bytes(4096), 12288, ">Q", 1 << 63 | 1 << 30),
    "qcow2 with a compressed cluster beyond its end": put(
        put(disks.qcow2(), 8192, ">Q", 12288) + bytes(4096), 12288, ">Q", 1 << 62 | 1 << 30),
    "qcow2 with its reference counts beyond its end": put(disks.qcow2(), 48, ">Q", 1 << 40),
    "qcow2 with 2^32 clusters of reference counts": put(disks.qcow2(), 56, ">I", (1 << 32) - 1),
    "qcow2 with its snapshots beyond its end": put(disks.qcow2(), 60, ">IQ", 1, 1 << 40),
    "qcow2 with clusters of 2^99": put(disks.qcow2(), 20, ">I", 99),
    "qcow2 cut in its magic number": disks.qcow2()[:4],
    "qcow2 cut in its header": disks.qcow2()[:60],
    "qcow2 cut in its L1 table": disks.qcow2()[:8200],
    "vmdk of 2^63 sectors": put(disks.vmdk(), 12, "<Q", 1 << 63),
    "vmdk of petabytes": put(disks.vmdk(), 12, "<Q", 1 << 43),
    "vmdk of no bytes": put(disks.vmdk(), 12, "<Q", 0),
    "vmdk with grains of no bytes": put(disks.vmdk(), 20, "<Q", 0),
    "vmdk with grains of 2^63": put(disks.vmdk(), 20, "<Q", 1 << 63),
    "vmdk with tables of no entries": put(disks.vmdk(), 44, "<I", 0),
    "vmdk with its directory beyond its end": put(disks.vmdk(), 56, "<Q", 1 << 40),
    "vmdk with its directory at 2^63": put(disks.vmdk(), 56, "<Q", 1 << 63),
    "vmdk with a grain table beyond its end": put(disks.vmdk(), 21 * SECTOR, "<I", 1 << 30),
    "vmdk with a grain beyond its end": put(
        put(disks.vmdk() + bytes(2048), 21 * SECTOR, "<I", 22), 22 * SECTOR, "<I", 1 << 30),
    "vmdk cut in its magic number": disks.vmdk()[:4],
    "vmdk cut in its directory": disks.vmdk()[: 21 * SECTOR + 4],
    "vmdk without its footer": disks.vmdk(streamed=True)[: -3 * SECTOR],
    "vmdk without its last sector": disks.vmdk(streamed=True)[:-SECTOR],
    "vdi of 2^63 bytes": put(disks.vdi(), 0x170, "<Q", 1 << 63),
    "vdi of petabytes": put(disks.vdi(), 0x170, "<Q", 1 << 52),
    "vdi of no bytes": put(disks.vdi(), 0x170, "<Q", 0),
    "vdi with 2^32 blocks": put(disks.vdi(), 0x180, "<I", (1 << 32) - 1),
    "vdi with blocks of no bytes": put(disks.vdi(), 0x178, "<I", 0),
    "vdi with its map beyond its end": put(disks.vdi(), 0x154, "<I", 1 << 30),
    "vdi with a block beyond its end": put(disks.vdi(), SECTOR, "<I", 1),
    "vdi with more blocks than it has": put(disks.vdi(), 0x184, "<I", 5),
    "vdi of another version": put(disks.vdi(), 0x44, "<I", 7),
    "vdi of another type": put(disks.vdi(), 0x4C, "<I", 9),
    "vdi cut in its header": disks.vdi()[:0x100],
    "vhd of 2^63 bytes": put(disks.vhd_dynamic(), -512 + 48, ">Q", 1 << 63),
    "vhd of petabytes": put(disks.vhd_dynamic(), -512 + 48, ">Q", 1 << 52),
    "vhd of no bytes": put(disks.vhd_dynamic(), -512 + 48, ">Q", 0),
    "vhd of another type": put(disks.vhd_dynamic(), -512 + 60, ">I", 9),
    "vhd with its header beyond its end": put(disks.vhd_dynamic(), -512 + 16, ">Q", 1 << 62),
    "vhd with 2^32 blocks": put(disks.vhd_dynamic(), SECTOR + 28, ">I", (1 << 32) - 1),
    "vhd with blocks of no bytes": put(disks.vhd_dynamic(), SECTOR + 32, ">I", 0),
    "vhd with its table beyond its end": put(disks.vhd_dynamic(), SECTOR + 16, ">Q", 1 << 40),
    "vhd with a block beyond its end": put(disks.vhd_dynamic(), 3 * SECTOR, ">I", 1 << 30),
    "vhd without its footer": disks.vhd_dynamic()[:-SECTOR],
    "fixed vhd of 2^63 bytes": put(disks.vhd_fixed(), -512 + 48, ">Q", 1 << 63),
    "fixed vhd that is longer than its file": put(disks.vhd_fixed(), -512 + 48, ">Q", MIB),
    "fixed vhd of no bytes": put(disks.vhd_fixed(), -512 + 48, ">Q", 0),
    "iso that is longer than its file": disks.iso(told=1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_inconsistent_header_is_refused(look: Examine, kind: str) -> None:
    with pytest.raises(InvalidRequest):
        look(LIES[kind], name="mine")
    with pytest.raises(InvalidRequest):
        look(LIES[kind], wanted="raw")


def test_disk_over_the_size_limit_is_refused(look: Examine) -> None:
    for content in (disks.qcow2(GIB), disks.vmdk(GIB), disks.vdi(GIB), disks.vhd_dynamic(GIB)):
        assert look(content, virtual_size_max=GIB).virtual_size == GIB
        with pytest.raises(InvalidRequest, match=f"from 1 to {GIB - 1} are allowed"):
            look(content, virtual_size_max=GIB - 1)
    with pytest.raises(InvalidRequest, match="PUBLISHER_VIRTUAL_SIZE_MAX"):
        look(disks.raw(bytes(KIB)), virtual_size_max=KIB)


def test_huge_sparse_file_is_examined_quickly(tmp_path: Path) -> None:
    """The file must not be read: reading 4 TiB of holes would take half an hour."""
    file = tmp_path / "disk"
    file.write_bytes(disks.raw())
    os.truncate(file, 4 * TIB)
    began = time.monotonic()
    assert examine(file, wanted_format=None, file_name="disk").virtual_size == 4 * TIB
    assert time.monotonic() - began < 60


# Glance ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "objection"),
    [
        (disks.vhd_fixed(), "a VHD of fixed size; run `qemu-img convert -f vpc -O qcow2 disk disk.qcow2`"),
        (put(bytes(MIB), 510, "2s", b"\x55\xaa"), "GPT MBR has no partitions defined.* convert -f raw -O qcow2 disk"),
        (put(disks.raw(bytes(MIB)), 446, "B", 7), "invalid boot flag"),
        (put(disks.raw(bytes(MIB)), 450, "B", 0xEE), "GPT MBR has invalid start CHS"),
        (put(put(bytes(100 * KIB), 0x8001, "5s", b"BEA01"), 0x8801, "5s", b"NSR02"), "does not recognise it as iso"),
    ],
)
def test_format_that_glance_would_refuse_gets_an_objection(look: Examine, content: bytes, objection: str) -> None:
    disk = look(content)
    assert disk.glance_objection
    with pytest.raises(InvalidRequest, match=objection):
        raise InvalidRequest(disk.glance_objection)


@pytest.mark.parametrize(
    "content",
    [
        disks.qcow2(), disks.vmdk(), disks.vmdk(streamed=True), disks.vdi(), disks.vhd_dynamic(), disks.iso(),
        disks.raw(), disks.raw(disks.iso()),
    ],
)  # fmt: skip
def test_format_that_glance_accepts_gets_no_objection(look: Examine, content: bytes) -> None:
    assert look(content).glance_objection is None
