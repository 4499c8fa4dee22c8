"""Headers and tables of the known disk formats: the size of the disk inside, and whether the file is complete.

Layouts: qcow2: QEMU docs/interop/qcow2.txt; vmdk: VMware Virtual Disk Format 1.1; vdi: VirtualBox VDICore.h; vhd:
Microsoft VHD specification; iso: ECMA-119. Each function reads a few MiB at most, whatever the header claims. All raise
`InvalidRequest`, which says what is wrong and what to do.
"""

from __future__ import annotations

import os
import shlex
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from publisher.core.errors import InvalidRequest

SECTOR = 512
FOOTER_BYTES = 512
"""Size of a VHD's footer, at the end of the file. A dynamic VHD has a copy of it at the start."""

_TABLE_BYTES_MAX = 1 << 20
"""Maximum number of bytes read from one table. Only images of several TiB have larger tables."""
_INNER_BYTES_MAX = 4 << 20
"""Maximum number of bytes read from all the tables that a table points to."""
_QCOW2_OFFSET = 0x00FFFFFFFFFFFE00
_QCOW2_COMPRESSED = 1 << 62
_QCOW2_L1_BYTES_MAX = 32 << 20
"""QEMU's own limit (block/qcow2.h)."""
_GD_AT_END = (1 << 64) - 1
_VDI_BLOCK_BYTES = 1 << 20
_VDI_UNUSED = 0xFFFFFFFE
"""From this value on, entries of a block map are no positions in the file but mean "not allocated" or "all zeros"."""
_VHD_UNUSED = 0xFFFFFFFF
_ISO_PADDING_BYTES = 300 * 2048
"""How much may be missing at the end of an ISO image: programs count padding that they do not always write."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that is open for reading, and its name for messages."""

    descriptor: int
    size: int
    name: str

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at `offset`: fewer than `length` at the end of the file, none beyond it."""
        if offset >= self.size:
            return b""
        pieces = []
        while length > 0 and (piece := os.pread(self.descriptor, min(length, self.size - offset), offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    @property
    def quoted(self) -> str:
        """The name, quoted for a shell."""
        return shlex.quote(self.name)


def damaged(file: OpenedFile, why: str) -> InvalidRequest:
    return InvalidRequest(f"{file.name} is damaged: {why}; create or convert the image again")


def incomplete(file: OpenedFile, why: str) -> InvalidRequest:
    return InvalidRequest(f"{file.name} is incomplete: {why}; transfer the file again")


def leads_elsewhere(file: OpenedFile, what: str, command: str) -> InvalidRequest:
    return InvalidRequest(
        f"{file.name} {what}, so it is incomplete by itself; in the directory with all its parts, run `{command}` and"
        " register the result"
    )


# qcow2 ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Qcow2:
    version: int
    backing_offset: int
    cluster_bits: int
    size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcounts_offset: int
    refcounts_clusters: int
    snapshots: int
    snapshots_offset: int
    features: int

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits


def qcow2_size(file: OpenedFile) -> int:
    header = _qcow2_header(file)
    if header.backing_offset or header.features & 4:
        what = "an external data file" if header.features & 4 else "a backing file"
        raise leads_elsewhere(file, f"is a qcow2 with {what}", f"qemu-img convert -O qcow2 {file.quoted} flat.qcow2")
    if header.features & 16:
        raise InvalidRequest(
            f"{file.name} is a qcow2 with extended L2 entries, which clouds refuse; run"
            f" `qemu-img convert -O qcow2 -o extended_l2=off {file.quoted} plain.qcow2` and register the result"
        )
    if header.encryption:
        raise InvalidRequest(
            f"{file.name} is an encrypted qcow2, which no cloud can read; decrypt it with"
            " `qemu-img convert --object secret,… -O qcow2` and register the result"
        )
    _check_qcow2_tables(file, header)
    return header.size


def _qcow2_header(file: OpenedFile) -> _Qcow2:
    head = file.read(0, 104).ljust(104, b"\0")
    (
        version,
        backing,
        _,
        bits,
        size,
        encryption,
        l1_entries,
        l1,
        refcounts,
        clusters,
        snapshots,
        snapshots_at,
        features,
    ) = struct.unpack_from(">IQIIQIIQQIIQQ", head, 4)
    if version not in (2, 3):
        raise InvalidRequest(
            f"{file.name} is a qcow image of version {version}, which clouds refuse; run"
            f" `qemu-img convert -O qcow2 {file.quoted} new.qcow2` and register the result"
        )
    if not 9 <= bits <= 21:
        raise damaged(file, f"its qcow2 header declares clusters of 2^{bits} bytes")
    return _Qcow2(
        version, backing, bits, size, encryption, l1_entries, l1, refcounts, clusters, snapshots, snapshots_at,
        features if version == 3 else 0,
    )  # fmt: skip


def _check_qcow2_tables(file: OpenedFile, header: _Qcow2) -> None:
    reach = header.cluster * header.cluster // 8
    needed = -(-header.size // reach)
    if header.l1_entries < needed or header.l1_entries * 8 > _QCOW2_L1_BYTES_MAX:
        raise damaged(file, f"its L1 table has {header.l1_entries} entries, and a disk of {header.size} bytes {needed}")
    _check_inside(file, "L1 table", header.l1_offset, header.l1_entries * 8, header.cluster)
    # The file may end within its last cluster.
    _check_inside(file, "table of reference counts", header.refcounts_offset, 8, header.cluster)
    if not header.refcounts_clusters or header.refcounts_clusters * header.cluster > file.size:
        raise incomplete(file, f"its table of reference counts has {header.refcounts_clusters} clusters")
    if header.snapshots:
        _check_inside(file, "table of snapshots", header.snapshots_offset, header.snapshots * 40, 8)
    l1 = _numbers(file, header.l1_offset, header.l1_entries, "Q", big_endian=True)
    tables = sorted({entry & _QCOW2_OFFSET for entry in l1} - {0})
    _check_end(file, tables)
    # The data written last is at the end of the file, and so, most often, are the tables that point to it.
    for table in tables[-(_INNER_BYTES_MAX // header.cluster or 1) :]:
        entries = _numbers(file, table, header.cluster // 8, "Q", big_endian=True)
        _check_end(file, _qcow2_clusters(entries, header.cluster_bits))


def _qcow2_clusters(entries: Iterable[int], cluster_bits: int) -> Iterator[int]:
    compressed_mask = (1 << (62 - (cluster_bits - 8))) - 1
    for entry in entries:
        if entry:
            yield entry & (compressed_mask if entry & _QCOW2_COMPRESSED else _QCOW2_OFFSET)


# vmdk -----------------------------------------------------------------------------------------------------------------


def vmdk_size(file: OpenedFile) -> int:
    """Return the disk size of a VMDK with a sparse header. A descriptor alone contains no disk."""
    head = file.read(0, SECTOR).ljust(SECTOR, b"\0")
    _, capacity, grain, descriptor, descriptor_sectors, entries_per_table, _, directory = struct.unpack_from(
        "<IQQQQIQQ", head, 8
    )
    one_file = f"qemu-img convert -O vmdk -o subformat=streamOptimized {file.quoted} single.vmdk"
    if not descriptor or not descriptor_sectors:
        raise leads_elsewhere(
            file, "is one part of a VMDK of several files", one_file.replace(file.quoted, "disk.vmdk")
        )
    _check_descriptor(
        file, file.read(descriptor * SECTOR, min(descriptor_sectors * SECTOR, _TABLE_BYTES_MAX)), one_file
    )
    if not 0 < grain <= 1 << 16 or grain & (grain - 1) or not 0 < entries_per_table <= 512:
        raise damaged(file, f"its VMDK header declares grains of {grain} sectors, {entries_per_table} in a table")
    if directory == _GD_AT_END:
        directory = struct.unpack_from("<Q", file.read(max(0, file.size - 2 * SECTOR), SECTOR).ljust(64, b"\0"), 56)[0]
        if not directory or directory == _GD_AT_END:
            raise incomplete(file, "the footer at its end is missing")
    _check_vmdk_tables(file, -(-capacity // (grain * entries_per_table)), directory, entries_per_table)
    return int(capacity) * SECTOR


def _check_descriptor(file: OpenedFile, text: bytes, one_file: str) -> None:
    extents = 0
    for line in text.split(b"\0")[0].decode("latin-1").lower().splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        if (name == "parentcid" and value != "ffffffff") or name == "parentfilenamehint":
            raise leads_elsewhere(file, "is a VMDK that contains only the changes to another", one_file)
        extents += line.split(" ")[0] in ("rw", "rdonly", "noaccess")
    if extents > 1:
        raise leads_elsewhere(file, "is a VMDK of several files", one_file)


def _check_vmdk_tables(file: OpenedFile, count: int, directory: int, entries_per_table: int) -> None:
    _check_inside(file, "grain directory", directory * SECTOR, count * 4, SECTOR)
    tables = sorted(set(_numbers(file, directory * SECTOR, count, "I")) - {0})
    _check_end(file, (table * SECTOR for table in tables))
    for table in tables[-_INNER_BYTES_MAX // (entries_per_table * 4 * 2) :]:
        grains = _numbers(file, table * SECTOR, entries_per_table, "I")
        _check_end(file, (grain * SECTOR for grain in grains))


# vdi ------------------------------------------------------------------------------------------------------------------


def vdi_size(file: OpenedFile) -> int:
    head = file.read(0, SECTOR).ljust(SECTOR, b"\0")
    version, _, kind = struct.unpack_from("<III", head, 0x44)
    block_map, data = struct.unpack_from("<II", head, 0x154)
    size, block, _, blocks, allocated = struct.unpack_from("<QIIII", head, 0x170)
    if version != 0x00010001:
        raise damaged(file, f"its VDI header has version {version >> 16}.{version & 0xFFFF}, not 1.1")
    if kind == 4 or any(head[0x1A8:0x1C8]):
        raise leads_elsewhere(
            file,
            "is a VDI that contains only the changes to another",
            f"VBoxManage clonemedium disk {file.quoted} flat.vdi --format VDI",
        )
    if kind not in (1, 2):
        raise damaged(file, f"its VDI header has type {kind}")
    if block != _VDI_BLOCK_BYTES or size > blocks * block or allocated > blocks:
        raise damaged(file, f"its VDI header declares {blocks} blocks of {block} bytes for a disk of {size}")
    _check_inside(file, "block map", block_map, blocks * 4, SECTOR)
    if data % SECTOR:
        raise damaged(file, f"its VDI header declares data at {data}")
    used = [entry for entry in _numbers(file, block_map, blocks, "I") if entry < _VDI_UNUSED]
    _check_end(file, (data + entry * block for entry in used))
    if allocated:
        _check_end(file, (data + (allocated - 1) * block,))
    return int(size)


# vhd ------------------------------------------------------------------------------------------------------------------


def vhd_size(file: OpenedFile) -> int:
    footer = vhd_footer(file)
    if not footer:
        raise incomplete(file, "it begins like a VHD, but the footer at the end is missing")
    header, _, size, _, kind = struct.unpack_from(">Q24sQ4sI", footer, 16)
    match kind:
        case 2:
            if size > file.size - FOOTER_BYTES:
                raise incomplete(file, f"its footer declares a disk of {size} bytes, and the file has {file.size}")
        case 3:
            _check_vhd_tables(file, header, size)
        case 4:
            raise leads_elsewhere(
                file,
                "is a VHD that contains only the changes to another",
                f"Convert-VHD -Path {file.quoted} -DestinationPath flat.vhd -VHDType Dynamic",
            )
        case _:
            raise damaged(file, f"its VHD footer has type {kind}")
    return int(size)


def is_fixed_vhd(file: OpenedFile) -> bool:
    """Return whether the file is a VHD of fixed size: the disk itself, and then a footer."""
    return vhd_footer(file)[60:64] == b"\0\0\0\2"


def vhd_footer(file: OpenedFile) -> bytes:
    """Return the footer; empty if there is none at the end of the file."""
    footer = file.read(max(0, file.size - FOOTER_BYTES), FOOTER_BYTES)
    return footer if footer.startswith(b"conectix") and len(footer) == FOOTER_BYTES else b""


def _check_vhd_tables(file: OpenedFile, header: int, size: int) -> None:
    dynamic = file.read(header, 1024).ljust(1024, b"\0")
    if not dynamic.startswith(b"cxsparse"):
        raise damaged(file, "its footer leads to no header of a dynamic VHD")
    table, _, entries, block = struct.unpack_from(">QIII", dynamic, 16)
    if block < SECTOR or block & (block - 1) or size > entries * block:
        raise damaged(file, f"its VHD header declares {entries} blocks of {block} bytes for a disk of {size}")
    _check_inside(file, "block allocation table", table, entries * 4, SECTOR)
    used = [entry for entry in _numbers(file, table, entries, "I", big_endian=True) if entry != _VHD_UNUSED]
    _check_end(file, (entry * SECTOR for entry in used))


# iso ------------------------------------------------------------------------------------------------------------------


def iso_size(file: OpenedFile) -> int:
    """Return the size of the file, which is also that of the disk."""
    descriptor = file.read(0x8000, 2048).ljust(2048, b"\0")
    if descriptor[0] == 1:
        declared = struct.unpack_from("<I", descriptor, 80)[0] * struct.unpack_from("<H", descriptor, 128)[0]
        if declared > file.size + _ISO_PADDING_BYTES:
            raise incomplete(file, f"it declares {declared} bytes, and the file has {file.size}")
    return file.size


# Tables ---------------------------------------------------------------------------------------------------------------


def _numbers(file: OpenedFile, offset: int, count: int, kind: str, *, big_endian: bool = False) -> array[int]:
    """Return the first numbers of a table. `kind`: "I" for 4 bytes, "Q" for 8."""
    numbers = array(kind)
    width = numbers.itemsize
    content = file.read(offset, min(count * width, _TABLE_BYTES_MAX))
    numbers.frombytes(content[: len(content) // width * width])
    if big_endian != (sys.byteorder == "big"):
        numbers.byteswap()
    return numbers


def _check_inside(file: OpenedFile, what: str, offset: int, length: int, alignment: int) -> None:
    if not offset or offset % alignment:
        raise damaged(file, f"its {what} cannot be at {offset}")
    if offset + length > file.size:
        raise incomplete(file, f"its {what} ends at {offset + length}, and the file at {file.size}")


def _check_end(file: OpenedFile, positions: Iterable[int]) -> None:
    """Check that the file reaches these positions, at which parts of the disk begin."""
    last = max(positions, default=0)
    if last >= file.size > 0:
        raise incomplete(file, f"a part of its disk is at {last}, and the file ends at {file.size}")
