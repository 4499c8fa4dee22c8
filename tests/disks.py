"""The smallest possible disk images, made by hand: what a tool writes for an empty disk of that size.

The layouts are those of `publisher.files.disk_headers`.
"""

from __future__ import annotations

import struct

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
SECTOR = 512


def raw(content: bytes = b"") -> bytes:
    """Return a disk with these bytes and an MBR with one partition."""
    disk = bytearray(content.ljust(2 * KIB, b"\0"))
    sectors = max(1, len(disk) // SECTOR - 1)
    disk[446:512] = struct.pack("<B3xB3xII", 0x80, 0x83, 1, sectors) + bytes(48) + b"\x55\xaa"
    return bytes(disk)


def qcow2(virtual_size: int = GIB, *, version: int = 3, cluster_bits: int = 12, features: int = 0) -> bytes:
    """Return header, table of reference counts and L1 table, each at the start of a cluster."""
    cluster = 1 << cluster_bits
    entries = -(-virtual_size * 8 // (cluster * cluster))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", version, 0, 0, cluster_bits, virtual_size, 0, entries, 2 * cluster, cluster, 1, 0, 0),
        *(features, 0, 0, 4, 112),
    )
    return header.ljust(2 * cluster + entries * 8, b"\0")


def descriptor(
    create_type: str = "monolithicSparse", extents: str = 'RW 2048 SPARSE "disk.vmdk"', **more: str
) -> bytes:
    """Return the text descriptor of a VMDK."""
    values = {"version": "1", "CID": "fffffffe", "parentCID": "ffffffff"} | more
    lines = ["# Disk DescriptorFile", *(f"{name}={value}" for name, value in values.items())]
    lines += [f'createType="{create_type}"', "# Extent description", extents, "# The Disk Data Base", "#DDB"]
    return "\n".join(lines).encode() + b"\n"


def vmdk(virtual_size: int = GIB, *, text: bytes | None = None, streamed: bool = False) -> bytes:
    """Return header, descriptor, and grain directory without tables. If `streamed`, a footer follows the directory."""
    grain, per_table, described = 128, 512, 20
    entries = -(-virtual_size // (SECTOR * grain * per_table))
    text = descriptor("streamOptimized" if streamed else "monolithicSparse") if text is None else text
    directory = 1 + described

    def header(at: int) -> bytes:
        sizes = (virtual_size // SECTOR, grain, 1, described, per_table, 0, at, 128)
        return struct.pack("<4sIIQQQQIQQQ", b"KDMV", 3 if streamed else 1, 3, *sizes).ljust(SECTOR, b"\0")

    begin = header((1 << 64) - 1 if streamed else directory) + text.ljust(described * SECTOR, b"\0")
    table = bytes(-(-entries * 4 // SECTOR) * SECTOR)
    if not streamed:
        return begin + table
    marker = struct.pack("<QII", 1, 0, 3).ljust(SECTOR, b"\0")
    return begin + table + marker + header(directory) + bytes(SECTOR)


def vdi(virtual_size: int = GIB, *, kind: int = 1) -> bytes:
    """Return header and block map, without an allocated block."""
    blocks = -(-virtual_size // MIB)
    data = SECTOR + -(-blocks * 4 // SECTOR) * SECTOR
    head = b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0")
    head += struct.pack("<IIII", 0xBEDA107F, 0x00010001, 400, kind)
    head = head.ljust(0x154, b"\0") + struct.pack("<II", SECTOR, data)
    head = head.ljust(0x168, b"\0") + struct.pack("<IIQIIII", SECTOR, 0, virtual_size, MIB, 0, blocks, 0)
    return (head.ljust(SECTOR, b"\0") + b"\xff" * (blocks * 4)).ljust(data, b"\0")


def _vhd_footer(virtual_size: int, kind: int, header_at: int) -> bytes:
    begin = struct.pack(
        ">8sIIQI4sI4sQQ", b"conectix", 2, 0x10000, header_at, 0, b"win ", 0, b"Wi2k", virtual_size, virtual_size
    )
    return (begin + struct.pack(">HBBI", 1000, 16, 63, kind)).ljust(SECTOR, b"\0")


def vhd_dynamic(virtual_size: int = GIB, *, kind: int = 3) -> bytes:
    """Return copy of the footer, header, block allocation table and footer."""
    block, table_at = 2 * MIB, 3 * SECTOR
    entries = -(-virtual_size // block)
    footer = _vhd_footer(virtual_size, kind, SECTOR)
    header = struct.pack(">8sQQIII", b"cxsparse", (1 << 64) - 1, table_at, 0x10000, entries, block).ljust(
        2 * SECTOR, b"\0"
    )
    table = (b"\xff" * (entries * 4)).ljust(-(-entries * 4 // SECTOR) * SECTOR, b"\0")
    return footer + header + table + footer


def vhd_fixed(content: bytes = bytes(64 * KIB)) -> bytes:
    """Return the disk followed by a footer."""
    return content + _vhd_footer(len(content), 2, (1 << 64) - 1)


def iso(sectors: int = 20, *, told: int | None = None) -> bytes:
    """Return an image with a primary volume descriptor and no files. `told` is the size it claims, in sectors."""
    image = bytearray(sectors * 2048)
    told = sectors if told is None else told
    image[0x8000:0x8007] = b"\x01CD001\x01"
    image[0x8050:0x8058] = struct.pack("<I", told) + struct.pack(">I", told)
    image[0x8080:0x8084] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    return bytes(image)
