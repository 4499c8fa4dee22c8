"""What a disk image file is. Every way in asks here before it registers a file; reads little of it, however large."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from publisher.core.errors import InvalidRequest
from publisher.core.image import DISK_FORMAT_OF, FORMAT_OF_DISK, check_format

VIRTUAL_SIZE_MAX = 64 << 40
"""Bytes: 64 TiB. What `PUBLISHER_VIRTUAL_SIZE_MAX` is by default."""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """What was found out about a file."""

    format: str
    """The image format of the wire contract."""
    disk_format: str
    """What the file is: one of `DISK_FORMATS`."""
    virtual_size: int
    """Bytes of the disk inside."""
    warning: str | None = None
    """What its owner should know, in words; the image can be published all the same."""


def examine(
    path: Path, *, wanted_format: str | None, file_name: str, virtual_size_max: int = VIRTUAL_SIZE_MAX
) -> DiskFile:
    """Find out what a complete file is, from its first and last bytes and the tables that these name.

    `wanted_format` is what the caller says that it is, by a name of the wire contract; None where they say nothing.
    `file_name` is what it is called, without the suffix of a compression. Raises `InvalidRequest` that says what the
    file is and what to do, for one that cannot be registered.
    """
    disk_format, virtual_size = _identify(path)
    if virtual_size > virtual_size_max:
        raise InvalidRequest(
            f"{file_name} says that it holds a disk of {virtual_size} bytes; the largest allowed is {virtual_size_max}",
            field="file",
        )
    format = _format_named(wanted_format, disk_format)
    return DiskFile(format, "raw" if format == "raw" else disk_format, virtual_size)


def _identify(path: Path) -> tuple[str, int]:
    """What a disk image file really is, and the size in bytes of the disk inside it.

    Known by the magic numbers that the formats' specifications give (qcow2: QEMU docs/interop/qcow2.txt; vmdk: VMware
    Virtual Disk Format 1.1; vdi: VirtualBox VDICore.h; vhd: Microsoft VHD specification, a footer at the end and in
    dynamic disks a copy at the front; iso: ECMA-119, "CD001" in sector 16). What is none of these is `raw`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0x8001)
        sector16 = file.read(5)
        file.seek(max(0, size - 512))
        tail = file.read(8)
    if head[:4] == b"QFI\xfb" and len(head) >= 32:
        return "qcow2", struct.unpack_from(">Q", head, 24)[0]
    if head[:4] == b"KDMV":
        return "vmdk", (struct.unpack_from("<Q", head, 12)[0] * 512 if len(head) >= 20 else size)
    if head.startswith(b"# Disk DescriptorFile"):
        return "vmdk", size
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return "vdi", (struct.unpack_from("<Q", head, 368)[0] if len(head) >= 376 else size)
    if b"conectix" in (head[:8], tail):
        return "vhd", size
    if sector16 == b"CD001":
        return "iso", size
    return "raw", size


def _format_named(name: str | None, disk_format: str) -> str:
    """The contract's name of an image's format: the one given, checked against what the file really is.

    Raises `InvalidRequest` for an unknown name, or one that stands for another kind of file.
    """
    if name is None:
        return FORMAT_OF_DISK[disk_format]
    canonical = check_format(name)
    expected = DISK_FORMAT_OF[canonical]
    # A raw disk may hold an ISO 9660 file system: hybrid images are both.
    if expected != disk_format and not (expected == "raw" and disk_format == "iso"):
        raise InvalidRequest(f"'{name}' means a {expected} file, but the file is {disk_format}", field="format")
    return canonical
