"""Images for the demonstration: a disk that boots, made from a Debian package, of any size."""

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MIB = 1 << 20
_CLUSTER = 1 << 16
_ENTRIES_OF_A_TABLE = _CLUSTER // 8  # for L1, L2 and the refcount table: 64 bits each
_ENTRIES_OF_A_REFCOUNT_BLOCK = _CLUSTER // 2  # 16 bits each
_COPIED = 1 << 63  # in an L1 or L2 entry: the cluster's refcount is 1

# Debian packages that contain a bootable ISO, and its path in them.
_PACKAGES = {
    "ipxe": Path("usr/lib/ipxe/ipxe.iso"),
    "grub-rescue-pc": Path("usr/lib/grub-rescue/grub-rescue-cdrom.iso"),
}


class DemoImageError(Exception):
    """There is no image to demonstrate with; the message says what to do."""


def bootable_iso(directory: Path) -> Path:
    """Return the path of an ISO that boots, and fetch it into `directory` if there is none yet.

    It tries in this order: the file that the environment variable DEMO_ISO names; an ISO fetched earlier; one from an
    installed Debian package; one from a Debian package that is downloaded and unpacked but not installed.

    Raises DemoImageError.
    """
    named = os.environ.get("DEMO_ISO")
    if named:
        return _checked(Path(named))
    for package, path in _PACKAGES.items():
        for present in (directory / path.name, Path("/") / path):
            if present.is_file():
                return _checked(present)
        fetched = _fetch(package, path, directory)
        if fetched is not None:
            return _checked(fetched)
    raise DemoImageError(
        f"no bootable ISO in Debian's packages ({', '.join(_PACKAGES)}) could be fetched: run "
        "`apt-get update` as root, or set DEMO_ISO to any bootable ISO"
    )


def write_qcow2(
    path: Path,
    *,
    virtual_size: int,
    data_bytes: int,
    seed: int,
    contents: Iterable[bytes] = (),
) -> None:
    """Write a QCOW2 disk (version 3, clusters of 64 KiB, no backing file).

    It starts with `contents`, followed by bytes that depend only on `seed`, up to `data_bytes`. The rest of its
    `virtual_size` bytes, a multiple of 512, is unallocated. The file appears only once it is complete.

    Raises ValueError if the sizes do not fit each other.
    """
    if virtual_size % 512 or not 0 <= data_bytes <= virtual_size:
        raise ValueError(f"{data_bytes} bytes of data do not fit a disk of {virtual_size} bytes")
    layout = _Layout.of(virtual_size, data_bytes)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as out:
            _write_tables(out, layout)
            out.seek(layout.data * _CLUSTER)
            for piece in _filled(contents, data_bytes, seed):
                out.write(piece)
            out.truncate(layout.clusters * _CLUSTER)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's contents in pieces of 1 MiB."""
    with path.open("rb") as file:
        while piece := file.read(_MIB):
            yield piece


@dataclass(frozen=True)
class _Layout:
    """Where in the file each part begins, and how long it is, in clusters; the header is cluster 0."""

    virtual_size: int
    data_clusters: int
    l2_tables: int
    l1_clusters: int
    l1_entries: int
    refcount_blocks: int
    refcount_table_clusters: int

    @classmethod
    def of(cls, virtual_size: int, data_bytes: int) -> "_Layout":
        data = _ceil(data_bytes, _CLUSTER)
        l1_entries = _ceil(virtual_size, _CLUSTER * _ENTRIES_OF_A_TABLE)
        l1 = max(1, _ceil(l1_entries, _ENTRIES_OF_A_TABLE))
        l2 = _ceil(data, _ENTRIES_OF_A_TABLE)
        counted = 1 + l1 + l2 + data
        table = blocks = 1
        # The refcounts' own clusters are counted too.
        while blocks * _ENTRIES_OF_A_REFCOUNT_BLOCK < counted + table + blocks:
            blocks += 1
            table = _ceil(blocks, _ENTRIES_OF_A_TABLE)
        return cls(virtual_size, data, l2, l1, l1_entries, blocks, table)

    @property
    def refcount_table(self) -> int:
        return 1

    @property
    def first_refcount_block(self) -> int:
        return self.refcount_table + self.refcount_table_clusters

    @property
    def l1(self) -> int:
        return self.first_refcount_block + self.refcount_blocks

    @property
    def first_l2(self) -> int:
        return self.l1 + self.l1_clusters

    @property
    def data(self) -> int:
        return self.first_l2 + self.l2_tables

    @property
    def clusters(self) -> int:
        """Number of clusters of the whole file."""
        return self.data + self.data_clusters


def _write_tables(out: BinaryIO, layout: _Layout) -> None:
    def write(cluster: int, content: bytes) -> None:
        out.seek(cluster * _CLUSTER)
        out.write(content)

    write(0, _header(layout))
    write(layout.refcount_table, _entries(layout.first_refcount_block, layout.refcount_blocks))
    write(layout.first_refcount_block, struct.pack(">H", 1) * layout.clusters)
    write(layout.l1, _entries(layout.first_l2, layout.l2_tables, _COPIED))
    write(layout.first_l2, _entries(layout.data, layout.data_clusters, _COPIED))


def _header(layout: _Layout) -> bytes:
    """Return the 104 bytes of version 3's header, and the mark that no extension follows."""
    return struct.pack(
        ">4sI QI I Q I I Q Q I I Q QQQ I I 8x",
        *(b"QFI\xfb", 3),
        *(0, 0),  # backing file: none
        _CLUSTER.bit_length() - 1,
        layout.virtual_size,
        0,  # not encrypted
        *(layout.l1_entries, layout.l1 * _CLUSTER),
        *(layout.refcount_table * _CLUSTER, layout.refcount_table_clusters),
        *(0, 0),  # snapshots: none
        *(0, 0, 0),  # incompatible, compatible and autoclear features: none
        4,  # refcounts of 2 ** 4 bits
        104,
    )


def _entries(first: int, count: int, flags: int = 0) -> bytes:
    return struct.pack(f">{count}Q", *(flags | cluster * _CLUSTER for cluster in range(first, first + count)))


def _filled(contents: Iterable[bytes], data_bytes: int, seed: int) -> Iterator[bytes]:
    """Yield the contents, then random bytes up to `data_bytes`: data that compresses well would flatter a transfer."""
    left = data_bytes
    for piece in contents:
        left -= len(piece)
        if left < 0:
            raise ValueError(f"the contents are longer than {data_bytes} bytes")
        yield piece
    source = random.Random(seed)  # noqa: S311  (to be repeatable, not secret)
    while left:
        yield source.randbytes(size := min(left, _MIB))
        left -= size


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)


def _checked(path: Path) -> Path:
    """Return the path if it is an ISO 9660 file."""
    try:
        with path.open("rb") as file:
            file.seek(0x8001)
            is_iso = file.read(5) == b"CD001"
    except OSError as error:
        raise DemoImageError(f"{path} cannot be read: {error.strerror}") from error
    if not is_iso:
        raise DemoImageError(f"{path} is not an ISO 9660 image: set DEMO_ISO to one that is")
    return path


def _fetch(package: str, path: Path, directory: Path) -> Path | None:
    """Download and unpack a package without installing it, and keep its ISO. Returns None if there is none."""
    apt_get, dpkg_deb = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt_get is None or dpkg_deb is None:
        raise DemoImageError("this is not Debian or Ubuntu: set DEMO_ISO to any bootable ISO")
    scratch = directory / f"{package}.unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if not _download(apt_get, package, scratch):
            return None
        for archive in scratch.glob("*.deb"):
            _run([dpkg_deb, "-x", archive.name, "."], scratch)
        kept = directory / path.name
        (scratch / path).replace(kept)
    except OSError as error:
        raise DemoImageError(f"the Debian package {package} has no {path}: set DEMO_ISO to an ISO") from error
    else:
        return kept
    finally:
        shutil.rmtree(scratch)


def _download(apt_get: str, package: str, directory: Path) -> bool:
    download = [apt_get, "download", "--quiet", package]
    if _run(download, directory):
        return True
    # Package lists are often missing or old, especially in containers. Only root can update them.
    return os.geteuid() == 0 and _run([apt_get, "update", "--quiet"], directory) and _run(download, directory)


def _run(command: list[str], directory: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
