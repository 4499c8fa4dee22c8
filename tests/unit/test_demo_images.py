"""The demonstration's disks are valid QCOW2 according to our own reader and, if it is installed, to QEMU."""

import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import images
from demo.images import DemoImageError, bootable_iso, write_qcow2
from tests.servers import missing

CLUSTER = 65536
OFFSET = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
MIB = 1 << 20


@dataclass(frozen=True)
class Disk:
    """A QCOW2 file, read strictly by its specification."""

    raw: bytes

    def number(self, offset: int, size: int) -> int:
        return int.from_bytes(self.raw[offset : offset + size], "big")

    def table(self, offset: int, entries: int) -> tuple[int, ...]:
        return struct.unpack_from(f">{entries}Q", self.raw, offset)

    def refcounts(self) -> dict[int, int]:
        """Return the clusters in use with their reference counts."""
        counts = {}
        entries = self.number(56, 4) * CLUSTER // 8
        for index, block in enumerate(self.table(self.number(48, 8), entries)):
            if block:
                for within, count in enumerate(struct.unpack_from(f">{CLUSTER // 2}H", self.raw, block)):
                    if count:
                        counts[index * CLUSTER // 2 + within] = count
        return counts

    def mapping(self) -> dict[int, int]:
        """Map each cluster number of the disk to its offset in the file, and check the flags."""
        found = {}
        for index, l1 in enumerate(self.table(self.number(40, 8), self.number(36, 4))):
            if l1:
                assert l1 & ~OFFSET == COPIED
                for within, l2 in enumerate(self.table(l1 & OFFSET, CLUSTER // 8)):
                    if l2:
                        assert l2 & ~OFFSET == COPIED
                        found[index * CLUSTER // 8 + within] = l2 & OFFSET
        return found

    def clusters_reached(self) -> list[int]:
        """Return every referenced cluster, once for each reference."""
        blocks = self.table(self.number(48, 8), self.number(56, 4) * CLUSTER // 8)
        l1_clusters = -(-self.number(36, 4) * 8 // CLUSTER)
        l2_tables = [entry & OFFSET for entry in self.table(self.number(40, 8), self.number(36, 4)) if entry]
        return [
            0,
            *(self.number(48, 8) // CLUSTER + index for index in range(self.number(56, 4))),
            *(block // CLUSTER for block in blocks if block),
            *(self.number(40, 8) // CLUSTER + index for index in range(l1_clusters)),
            *(table // CLUSTER for table in l2_tables),
            *(offset // CLUSTER for offset in self.mapping().values()),
        ]

    def contents(self) -> bytes:
        """Return the disk's content up to the last cluster in use."""
        mapping = self.mapping()
        assert sorted(mapping) == list(range(len(mapping)))
        return b"".join(self.raw[mapping[n] : mapping[n] + CLUSTER] for n in sorted(mapping))


@pytest.fixture(autouse=True)
def no_iso_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_ISO", raising=False)


@pytest.mark.parametrize(
    ("virtual_size", "data_bytes"),
    [
        pytest.param(2048 * MIB, 0, id="empty"),
        pytest.param(2048 * MIB, 5 * MIB + 17, id="a part of a cluster"),
        pytest.param(5 * MIB, 5 * MIB, id="full"),
        pytest.param(512 * MIB + 512, 16 * MIB, id="two L1 entries"),
    ],
)
def test_disk_is_valid_and_can_be_read_back(tmp_path: Path, virtual_size: int, data_bytes: int) -> None:
    start = [b"boot", b"able" * 1000] if data_bytes else []
    path = tmp_path / "disk.qcow2"
    write_qcow2(path, virtual_size=virtual_size, data_bytes=data_bytes, seed=7, contents=iter(start))

    disk = Disk(path.read_bytes())
    check_header(disk, virtual_size)
    check_every_cluster_is_counted_once(disk)
    begin = b"".join(start)
    rest = random.Random(7).randbytes(min(MIB, data_bytes - len(begin)))  # noqa: S311
    read = disk.contents()
    assert len(read) == -(-data_bytes // CLUSTER) * CLUSTER
    assert read.startswith(begin + rest)
    assert not any(read[data_bytes:])
    check_with_qemu(path, virtual_size)


def check_header(disk: Disk, virtual_size: int) -> None:
    assert disk.raw[:4] == b"QFI\xfb"
    assert disk.number(4, 4) == 3
    assert disk.number(8, 8) == disk.number(16, 4) == 0, "no backing file"
    assert 1 << disk.number(20, 4) == CLUSTER
    assert disk.number(24, 8) == virtual_size
    assert disk.number(32, 4) == 0, "not encrypted"
    assert disk.number(36, 4) == -(-virtual_size // (512 * MIB))
    assert disk.number(60, 4) == disk.number(64, 8) == 0, "no snapshots"
    assert not any(disk.raw[72:96]), "no features"
    assert disk.number(96, 4) == 4, "refcounts of 16 bits"
    assert disk.number(100, 4) == 104, "length"
    assert not any(disk.raw[104:CLUSTER]), "no extensions"


def check_every_cluster_is_counted_once(disk: Disk) -> None:
    clusters = len(disk.raw) // CLUSTER
    assert len(disk.raw) % CLUSTER == 0
    assert disk.refcounts() == dict.fromkeys(range(clusters), 1)
    assert sorted(disk.clusters_reached()) == list(range(clusters))


def check_with_qemu(path: Path, virtual_size: int) -> None:
    qemu_img = shutil.which("qemu-img") or missing("qemu-img")
    subprocess.run([qemu_img, "check", str(path)], check=True, capture_output=True, timeout=600)
    told = subprocess.run([qemu_img, "info", str(path)], check=True, capture_output=True, timeout=600)
    assert f"({virtual_size} bytes)".encode() in told.stdout


def test_random_content_depends_only_on_the_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_qcow2(tmp_path / name, virtual_size=4 * MIB, data_bytes=3 * MIB, seed=seed)

    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("virtual_size", "data_bytes"),
    [(1000, 0), (MIB, MIB + 1), (MIB, -1), (MIB, 10)],
    ids=str,
)
def test_invalid_sizes_leave_no_file(tmp_path: Path, virtual_size: int, data_bytes: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        write_qcow2(
            tmp_path / "disk",
            virtual_size=virtual_size,
            data_bytes=data_bytes,
            seed=1,
            contents=[b"longer than ten bytes"],
        )

    assert list(tmp_path.iterdir()) == []


def an_iso(path: Path) -> Path:
    path.write_bytes(bytes(0x8001) + b"CD001" + bytes(100))
    return path


def test_configured_iso_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iso = an_iso(tmp_path / "mine.iso")
    monkeypatch.setenv("DEMO_ISO", str(iso))

    assert bootable_iso(tmp_path / "elsewhere") == iso


def test_fetched_iso_is_reused(tmp_path: Path) -> None:
    iso = an_iso(tmp_path / "ipxe.iso")

    assert bootable_iso(tmp_path) == iso


def test_missing_or_invalid_iso_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_ISO", str(tmp_path / "none.iso"))
    with pytest.raises(DemoImageError, match="cannot be read: No such file"):
        bootable_iso(tmp_path)

    (tmp_path / "none.iso").write_bytes(bytes(100_000))
    with pytest.raises(DemoImageError, match="not an ISO 9660 image"):
        bootable_iso(tmp_path)


def test_error_without_debian_asks_for_demo_iso(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PACKAGES", {"ipxe": Path("nowhere/ipxe.iso")})
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DemoImageError, match="set DEMO_ISO"):
        bootable_iso(tmp_path)
