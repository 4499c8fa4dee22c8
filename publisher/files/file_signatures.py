"""Signatures of files that are no disk images, of disk images that no platform takes, and of the start of a disk."""

from __future__ import annotations

import re
import struct
import tarfile

HEAD_BYTES = 0x10600
"""How much of a file is examined here: up to the superblock that is farthest from the start (UFS2)."""

CONVERT = "run `qemu-img convert -O qcow2 {name} disk.qcow2` and register the result"


def _unpack(command: str) -> str:
    return f"run `{command}` and register the disk image that comes out"


_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "packed by gzip", _unpack("gunzip {name}")),
    (0, b"\xfd7zXZ\0", "packed by xz", _unpack("unxz {name}")),
    (0, b"\x28\xb5\x2f\xfd", "packed by Zstandard", _unpack("unzstd {name}")),
    (0, b"BZh", "packed by bzip2", _unpack("bunzip2 {name}")),
    (0, b"\x04\x22\x4d\x18", "packed by LZ4", _unpack("unlz4 {name}")),
    (0, b"\x02\x21\x4c\x18", "packed by LZ4", _unpack("unlz4 {name}")),
    (0, b"\x5d\0\0\x80\0", "packed by LZMA", _unpack("unlzma {name}")),
    (0, b"\x89LZO\0\r\n\x1a\n", "packed by lzop", _unpack("lzop -d {name}")),
    (0, b"LZIP", "packed by lzip", _unpack("lzip -d {name}")),
    (0, b"LRZI", "packed by lrzip", _unpack("lrzip -d {name}")),
    (0, b"\x1f\x9d", "packed by compress", _unpack("uncompress {name}")),
    (0, b"PK\x03\x04", "a ZIP archive", _unpack("unzip {name}")),
    (0, b"PK\x05\x06", "an empty ZIP archive", "make it again, with a disk image in it, and unpack that"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _unpack("7z x {name}")),
    (0, b"Rar!\x1a\x07", "a RAR archive", _unpack("unrar x {name}")),
    (0, b"070701", "a cpio archive", _unpack("cpio -id < {name}")),
    (0, b"070702", "a cpio archive", _unpack("cpio -id < {name}")),
    (0, b"070707", "a cpio archive", _unpack("cpio -id < {name}")),
    (0, b"\xc7\x71", "a cpio archive", _unpack("cpio -id < {name}")),
    (0, b"!<arch>\n", "an ar archive (a Debian package is one)", _unpack("ar x {name}")),
    (257, b"ustar", "a tar archive (an OVA is one)", _unpack("tar -xf {name}")),
    (0, b"MSCF", "a cabinet archive", _unpack("cabextract {name}")),
    (0, b"xar!", "a xar archive", _unpack("xar -xf {name}")),
    (0, b"MSWIM\0\0\0", "a Windows image (WIM)", "install it on a disk, and register an image of that disk"),
    (0, b"\xed\xab\xee\xdb", "an RPM package", _unpack("rpm2cpio {name} | cpio -id")),
    (0, b"vhdxfile", "a VHDX disk", CONVERT),
    (0, b"QED\0", "a QED disk", CONVERT),
    (0, b"LUKS\xba\xbe", "a disk that LUKS encrypts, which no cloud reads", "register one that is not encrypted"),
    (0, b"WithoutFreeSpace", "a Parallels disk", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels disk", CONVERT),
    (0, b"Bochs Virtual HD Image", "a Bochs disk", CONVERT),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop disk", CONVERT),
    (0, b"COWD", "a VMDK of ESX, or one part of it", CONVERT),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "a space-efficient VMDK of ESX, or one part of it", CONVERT),
    (0, b"\x3a\xff\x26\xed", "a sparse image of Android", _unpack("simg2img {name} disk.img")),
    (0, b"EVF\t\r\n\xff\0", "an EnCase image", _unpack("ewfexport -f raw {name}")),
    (0, b"partclone-image", "a partclone image", "restore it on a disk, and register an image of that disk"),
    (0, b"VMA\0", "a backup of Proxmox (VMA)", _unpack("vma extract {name} directory")),
    (0, b"version https://git-lfs.", "a pointer of Git LFS, not the file", "run `git lfs pull` and register the file"),
    (0, b"%PDF-", "a PDF document", "register the disk image itself"),
    (0, b"\x7fELF", "a program (ELF)", "register a disk image that it is installed on"),
    (0x202, b"HdrS", "a Linux kernel", "register a disk image that it is installed on"),
)  # fmt: skip
"""Offset, bytes there, what the file is, what to do. `{name}` is the file's name, quoted for a shell."""

_ASK = "open its address in a browser to see what the server says, then fetch the image itself"
_TEXTS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"<\?xml[^>]*>\s*(<!--.*?-->\s*)*<([\w.-]+:)?envelope\b", re.I | re.S),
        "an OVF description, not the disk that belongs to it",
        "register the disk that it names under 'References'",
    ),
    (re.compile(rb"(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S), "a web page", _ASK),
    (re.compile(rb"<\?xml\s|<!doctype\s|<error\b|<[\w:.-]+\s+xmlns", re.I), "an XML document", _ASK),
    (re.compile(rb'\{\s*("|\})|\[\s*[\[{"\]]'), "a JSON document", _ASK),
)  # fmt: skip


def foreign(head: bytes, tail: bytes) -> tuple[str, str] | None:
    """Return what a file is that cannot be registered, and what to do, with `{name}` for its name.

    Returns None if the file has no such signature. `tail` is the file's last 512 bytes.
    """
    if found := next(((what, to_do) for at, magic, what, to_do in _OTHERS if head.startswith(magic, at)), None):
        return found
    if tail.startswith(b"koly"):
        return "an Apple disk image (DMG)", CONVERT
    if _is_tar(head):
        return "a tar archive (an OVA is one)", _unpack("tar -xf {name}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next(((what, to_do) for pattern, what, to_do in _TEXTS if pattern.match(text)), None)


def _is_tar(head: bytes) -> bool:
    """Recognise archives from before POSIX: they have no magic number, but a checksum in their header."""
    if not any(head[:100]) or len(head) < 512:
        return False
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


_STRUCTURES: tuple[tuple[int, bytes, str], ...] = (
    (512, b"EFI PART", "GPT"),
    (4096, b"EFI PART", "GPT"),
    (510, b"\x55\xaa", "boot sector"),
    (512, b"PM\0\0", "Apple partition map"),
    (512, b"\x57\x45\x56\x82", "BSD disk label"),
    (0x438, b"\x53\xef", "ext"),
    (0, b"XFSB", "XFS"),
    (0x10040, b"_BHRfS_M", "Btrfs"),
    (54, b"FAT1", "FAT"),
    (82, b"FAT32", "FAT"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (0, b"hsqs", "SquashFS"),
    (0, b"\x45\x3d\xcd\x28", "cramfs"),
    (0x400, b"\x10\x20\xf5\xf2", "F2FS"),
    (0x400, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (0x400, b"H+", "HFS+"),
    (0x400, b"HX", "HFS+"),
    (0x8000, b"JFS1", "JFS"),
    (0x8001, b"BEA01", "UDF"),
    (0x10034, b"ReIsEr", "ReiserFS"),
    (0x1055C, b"\x19\x01\x54\x19", "UFS"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (4096, b"\xfc\x4e\x2b\xa9", "RAID"),
    *((sector * 512, b"LABELONE", "LVM") for sector in range(4)),
)


def structure(head: bytes) -> str | None:
    """Return what a disk begins with: a partition table, boot sector or file system. None if it has none of them."""
    return next((what for at, magic, what in _STRUCTURES if head.startswith(magic, at)), None)


def disk_end(head: bytes) -> int:
    """Return the minimum size of the disk in bytes, by its GPT or else its MBR's partitions; 0 if it has neither."""
    for sector in (512, 4096):
        if head.startswith(b"EFI PART", sector) and len(head) >= sector + 40:
            last: int = struct.unpack_from("<Q", head, sector + 32)[0]
            return (last + 1) * sector
    if head[510:512] != b"\x55\xaa":
        return 0
    entries = (struct.unpack_from("<B3xB3xII", head, 446 + 16 * each) for each in range(4))
    ends = ((start + count) * 512 for boot, kind, start, count in entries if boot in (0, 0x80) and kind)
    return 0 if _is_file_system(head) else max(ends, default=0)


def _is_file_system(head: bytes) -> bool:
    """Return whether the boot sector belongs to a file system: it has code in place of partitions."""
    return head[3:8] in (b"NTFS ", b"EXFAT") or head[54:58] == b"FAT1" or head[82:87] == b"FAT32"
