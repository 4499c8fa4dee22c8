"""Identifies disk image files. Every file is examined here before it is registered.

Reads little, however large the file is. `oslo_utils.imageutils.format_inspector` recognises the formats and decides
whether a file is safe, as in Glance. `disk_headers` adds sizes, tables and references to other files, and
`file_signatures` adds archives, web pages and other formats.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from publisher.core.errors import InvalidRequest
from publisher.core.image import DISK_FORMAT_OF, FORMAT_OF_DISK, check_format
from publisher.files import file_signatures
from publisher.files.disk_headers import (
    SECTOR,
    OpenedFile,
    damaged,
    incomplete,
    is_fixed_vhd,
    iso_size,
    leads_elsewhere,
    qcow2_size,
    vdi_size,
    vhd_footer,
    vhd_size,
    vmdk_size,
)

if TYPE_CHECKING:
    from oslo_utils.imageutils.format_inspector import FileInspector

# It logs problems as warnings and errors. Here, each is an answer to the caller.
logging.getLogger("oslo_utils.imageutils.format_inspector").setLevel(logging.CRITICAL)

VIRTUAL_SIZE_MAX = 64 << 40
"""In bytes: 64 TiB, the default of `PUBLISHER_VIRTUAL_SIZE_MAX`."""

_VIRTUAL_SIZE_LARGEST = (1 << 63) - 1
"""The maximum of the database's columns."""

_HEAD_BYTES = 1 << 20
"""Covers the longest VMDK descriptor that QEMU reads."""
_TAIL_BYTES = 3 * SECTOR
"""Covers the footer of a stream-optimized VMDK."""

_PROMISES = {
    ".qcow": "qcow2",
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vdi": "vdi",
    ".vhd": "vhd",
    ".vpc": "vhd",
    ".iso": "iso",
    ".raw": "raw",
    ".vhdx": "vhdx",
    ".qed": "qed",
    ".ova": "OVA",
    ".ovf": "OVF",
    ".dmg": "DMG",
}
"""Maps file name suffixes to the formats that they promise. `.img`, `.bin` and the like are used for all formats."""

_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".aria2", ".filepart")
"""Suffixes that programs use while they still write a file."""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """The result of examining a file."""

    format: str
    """The image format of the wire contract."""
    disk_format: str
    """The format of the file: one of `DISK_FORMATS`."""
    virtual_size: int
    """Size of the disk inside, in bytes."""
    warning: str | None = None
    """A note to the owner, as text. The image can still be published."""
    glance_objection: str | None = None
    """Why Glance would refuse the file after its last byte, and what to do. None if Glance accepts the file."""


def examine(
    path: Path, *, wanted_format: str | None, file_name: str, virtual_size_max: int = VIRTUAL_SIZE_MAX
) -> DiskFile:
    """Identify a complete file from its first and last bytes and the tables that these point to.

    `wanted_format` is the format that the caller declared, by a name of the wire contract, or None. `file_name` is the
    file's name without the suffix of a compression. Raises `InvalidRequest` for a file that cannot be registered, which
    says what the file is and what to do.
    """
    suffix = PurePath(file_name).suffix.lower()
    if suffix in _UNFINISHED:
        raise InvalidRequest(f"{file_name} is an unfinished download, by its name; fetch it again")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return examine_opened(
            descriptor,
            wanted_format=wanted_format,
            file_name=file_name,
            promised=_PROMISES.get(suffix),
            virtual_size_max=virtual_size_max,
        )
    finally:
        os.close(descriptor)


def examine_opened(
    descriptor: int,
    *,
    wanted_format: str | None,
    file_name: str,
    promised: str | None = None,
    virtual_size_max: int = VIRTUAL_SIZE_MAX,
) -> DiskFile:
    """Identify an open file. Its position is neither used nor moved. See `examine`.

    `promised` is the format that its name promises, to be compared with its content, or None.
    """
    wanted = None if wanted_format is None else check_format(wanted_format)
    file = OpenedFile(descriptor, os.fstat(descriptor).st_size, file_name)
    head = file.read(0, _HEAD_BYTES)
    matches = _inspected(file, head)
    found = _recognised(file, head, matches)
    if found is None:
        _refuse_foreign(file, head)
    _check_promise(file, promised, found or "raw")
    if found is None and wanted is None:
        _refuse_unknown(file, head)
    format = _format_named(wanted, found or "raw")
    virtual_size = _virtual_size(file, found, matches)
    _check_virtual_size(file, virtual_size, min(virtual_size_max, _VIRTUAL_SIZE_LARGEST))
    disk_format = "raw" if format == "raw" else found or "raw"
    return DiskFile(
        format,
        disk_format,
        virtual_size,
        warning=_warning(file, head) if found is None else None,
        glance_objection=_glance_objection(file, disk_format, matches),
    )


# Recognising ---------------------------------------------------------------------------------------------------------


def _inspected(file: OpenedFile, head: bytes) -> dict[str, FileInspector]:
    """Return the inspectors that recognise the file, by the name of their format."""
    # Imported here: it takes 0.06 s, and most processes examine no file.
    from oslo_utils.imageutils import format_inspector

    # A file that is cut off in its header must be recognised, too: its header shows what is missing.
    padded = head.ljust(file_signatures.HEAD_BYTES, b"\0")
    tail = file.read(max(0, file.size - _TAIL_BYTES), _TAIL_BYTES)
    matches = {}
    for name, kind in format_inspector.ALL_FORMATS.items():
        inspector = kind()
        try:
            # They take a stream, and keep the parts that they need: its beginning and its end.
            inspector.eat_chunk(padded)
            inspector.eat_chunk(tail)
            inspector.finish()
            if name != "raw" and inspector.format_match:
                matches[name] = inspector
        except Exception:  # noqa: S112  # of any kind: if an inspector fails, the file is not of its format
            continue
    return matches


_FRONT = {"qcow2": (0, b"QFI\xfb"), "vmdk": (0, b"KDMV"), "vhd": (0, b"conectix"), "vdi": (64, b"\x7f\x10\xda\xbe")}
"""The offset and the first bytes of the formats. If the rest of a header is wrong, some inspectors do not match."""


def _recognised(file: OpenedFile, head: bytes, matches: Mapping[str, FileInspector]) -> str | None:
    """Return one of `DISK_FORMATS` except raw; None if the file is none of these."""
    if _is_descriptor(head):
        command = f"qemu-img convert -O vmdk -o subformat=streamOptimized {file.quoted} single.vmdk"
        raise leads_elsewhere(file, "describes a VMDK disk whose data is in other files", command)
    begun = {name for name, (at, magic) in _FRONT.items() if head.startswith(magic, at)}
    found = begun | ({"iso"} if "iso" in matches or _is_udf(head) else set())
    if len(found) > 1:
        raise damaged(file, f"it is {' and '.join(sorted(found))} at the same time")
    if found:
        return next(iter(found))
    # A VHD of fixed size has no signature at its start.
    return "vhd" if vhd_footer(file) else None


def _is_descriptor(head: bytes) -> bool:
    text = head[: 64 << 10].lower()
    if text.startswith(b"# disk descriptorfile"):
        return True
    return _is_text(text[:SECTOR]) and b'createtype="' in text


def _is_udf(head: bytes) -> bool:
    return head[0x8001:0x8006] == b"BEA01" and head[0x8801:0x8806] in (b"NSR02", b"NSR03")


def _refuse_foreign(file: OpenedFile, head: bytes) -> None:
    """Raise if the file is no disk, or has a format that is not supported."""
    tail = file.read(max(0, file.size - SECTOR), SECTOR)
    if found := file_signatures.foreign(head, tail):
        what, to_do = found
        raise InvalidRequest(f"{file.name} is {what}; {to_do.format(name=file.quoted)}")


def _check_promise(file: OpenedFile, promised: str | None, found: str) -> None:
    # A raw disk may contain an ISO 9660 file system: hybrid images are both.
    if promised not in (None, found) and (promised, found) != ("raw", "iso"):
        raise InvalidRequest(
            f"{file.name} is named as a {promised} file, but its content is {'not' if found == 'raw' else found}; check"
            " that it came complete and from the right place, and give it a name that fits its content"
        )


def _refuse_unknown(file: OpenedFile, head: bytes) -> None:
    """Raise if the file does not begin like a disk, and nobody declared it as raw."""
    if file_signatures.structure(head) is None:
        raise InvalidRequest(
            f"{file.name} is {_guess(head)}: it has no known disk format, partition table, boot sector or file system;"
            " if it is a raw disk, say so by the format 'raw', or else check that it came complete"
        )


def _guess(head: bytes) -> str:
    first = head[:4096]
    if not first.strip(b"\0"):
        return "empty at its beginning"
    return "text" if _is_text(first) else "not recognised"


def _is_text(part: bytes) -> bool:
    return all(each >= 0x20 or each in b"\t\r\n\f" for each in part)


def _format_named(wanted: str | None, disk_format: str) -> str:
    """Return the contract's name of the format: the wanted one, checked against the file, or else the default."""
    if wanted is None:
        return FORMAT_OF_DISK[disk_format]
    expected = DISK_FORMAT_OF[wanted]
    # A raw disk may contain an ISO 9660 file system: hybrid images are both.
    if expected != disk_format and not (expected == "raw" and disk_format == "iso"):
        raise InvalidRequest(f"'{wanted}' means a {expected} file, but the file is {disk_format}", field="format")
    return wanted


# Sizes and safety -----------------------------------------------------------------------------------------------------


_SIZES = {"qcow2": qcow2_size, "vmdk": vmdk_size, "vdi": vdi_size, "vhd": vhd_size, "iso": iso_size}


def _virtual_size(file: OpenedFile, found: str | None, matches: Mapping[str, FileInspector]) -> int:
    if found is None:
        return file.size
    size = _SIZES[found](file)
    # To the inspectors, a VHD of fixed size and an ISO with UDF alone look the same as raw.
    if found in matches or (found in _FRONT and not is_fixed_vhd(file)):
        _check_safe(file, found, matches)
    return size


def _check_virtual_size(file: OpenedFile, size: int, largest: int) -> None:
    if not 0 < size <= largest:
        raise InvalidRequest(
            f"{file.name} contains a disk of {size} bytes; from 1 to {largest} are allowed (PUBLISHER_VIRTUAL_SIZE_MAX)"
        )


def _check_safe(file: OpenedFile, disk_format: str, matches: Mapping[str, FileInspector]) -> None:
    """Raise if the inspector of the format considers the file unsafe."""
    if disk_format not in matches:
        raise damaged(file, f"it begins like a {disk_format} file, but its header is invalid")
    if wrong := _unsafe(matches[disk_format]):
        if "footer" in wrong:
            raise incomplete(file, wrong)
        to_do = file_signatures.CONVERT.format(name=file.quoted)
        raise InvalidRequest(f"{file.name} is a {disk_format} file that clouds refuse ({wrong}); {to_do}")


def _unsafe(inspector: FileInspector) -> str:
    """Return what an inspector's safety check finds, in its own words; empty if it finds nothing."""
    from oslo_utils.imageutils import format_inspector

    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        return "; ".join(f"{name}: {failure}" for name, failure in sorted(error.failures.items()))
    except (format_inspector.ImageFormatError, struct.error) as error:
        return str(error)
    return ""


def _warning(file: OpenedFile, head: bytes) -> str | None:
    """Return a warning about a raw disk, or None."""
    if file_signatures.structure(head) is None:
        return "No partition table, boot sector or file system was found in the image; it may not boot"
    if file_signatures.disk_end(head) > file.size:
        return "The partition table goes on beyond the end of the image; it may be incomplete"
    return None


def _glance_objection(file: OpenedFile, disk_format: str, matches: Mapping[str, FileInspector]) -> str | None:
    """Return why Glance would refuse an upload, or None (33.0.0, glance/location.py, `ImageProxy.set_data`)."""
    source = "vpc" if disk_format == "vhd" else "raw"
    to_do = f"run `qemu-img convert -f {source} -O qcow2 {file.quoted} disk.qcow2` and register the result"
    if disk_format == "vhd" and is_fixed_vhd(file):
        return f"Glance does not recognise a VHD of fixed size; {to_do}"
    seen = {"iso"} if set(matches) == {"iso", "gpt"} else set(matches)
    if len(seen) > 1:
        return f"Glance detects several formats at once ({', '.join(sorted(seen))}); {to_do}"
    found = next(iter(seen), "raw")
    if disk_format not in ("raw", found):
        return f"Glance does not recognise it as {disk_format}; {to_do}"
    if found != "raw" and (wrong := _unsafe(matches[found])):
        return f"Glance's safety check refuses it ({wrong}); {to_do}"
    return None
