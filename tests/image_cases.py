"""Disk files from other tools, packed in `data/images`, with the expected result of registering each."""

from __future__ import annotations

import gzip
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from tests import disks

_PACKED = Path(__file__).parent / "data" / "images"


@dataclass(frozen=True)
class ImageCase:
    """A file, with the reason why it is refused or with its format and size."""

    name: str
    refused: tuple[str, ...] = ()
    """Parts of the error message."""
    disk_format: str = ""
    virtual_size: int = 0

    @property
    def content(self) -> bytes:
        packed = _PACKED / f"{self.name}.gz"
        return gzip.decompress(packed.read_bytes()) if packed.exists() else (_PACKED / self.name).read_bytes()


CASES = (
    ImageCase("backing.qcow2", ("a backing file", "qemu-img convert -O qcow2 backing.qcow2 flat.qcow2")),
    # 40 GiB, rounded up to whole cylinders as the format requires.
    ImageCase("big.vhd", disk_format="vhd", virtual_size=20561 * 16 * 255 * 512),
    ImageCase("c.ova", ("a tar archive (an OVA is one)", "tar -xf c.ova")),
    ImageCase("extl2.qcow2", ("extended L2 entries", "qemu-img convert -O qcow2 -o extended_l2=off extl2.qcow2")),
    ImageCase("fixed.vhd", disk_format="vhd", virtual_size=3168256),
    ImageCase("flat.vmdk", ("data is in other files", "-o subformat=streamOptimized flat.vmdk single.vmdk")),
    ImageCase("q_2e63.qcow2", ("is damaged", "9223372036854775808 bytes")),
    ImageCase("trunc.qcow2", ("is incomplete", "transfer the file again")),
)

REFUSED = tuple(case for case in CASES if case.refused)
ACCEPTED = tuple(case for case in CASES if not case.refused)
ACCEPTED_ON_THE_WAY_IN = (*ACCEPTED, ImageCase("c.qcow2.xz", disk_format="qcow2", virtual_size=8 << 20))
"""Accepted files, including compressed ones, which registration decompresses."""


# Mutated headers ------------------------------------------------------------------------------------------------------


BASES = (
    disks.qcow2(), disks.qcow2(version=2), disks.vmdk(), disks.vmdk(streamed=True), disks.vdi(), disks.vhd_dynamic(),
    disks.vhd_fixed(), disks.iso(), disks.raw(), disks.descriptor(),
    *(case.content for case in CASES if case.name not in ("c.ova", "fixed.vhd")),
)  # fmt: skip
_EDGES = (
    0,
    1,
    2,
    3,
    4,
    9,
    63,
    127,
    128,
    255,
    511,
    512,
    4096,
    65535,
    *(1 << bits for bits in (16, 20, 31, 32, 40, 52, 62)),
)
_WIDTHS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def mutated(seed: int) -> bytes:
    """Return a disk file with a few changed numbers in its header or footer, sometimes truncated. The same seed gives
    the same file."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    content = bytearray(chance.choice(BASES))
    for _ in range(chance.randint(1, 6)):
        kind = chance.choice("BHIQ")
        top = (1 << _WIDTHS[kind]) - 1
        value = chance.choice((*_EDGES, top, top - 1, top // 2 + 1, chance.randint(0, top), len(content))) & top
        reach = chance.choice((128, 512, 2048))
        at = min(chance.randrange(reach), len(content) - 8)
        if chance.random() < 0.25:
            at = max(0, len(content) - 8 - at)
        struct.pack_into(chance.choice("<>") + kind, content, max(0, at), value)
    if chance.random() < 0.2:
        del content[chance.randrange(1, len(content)) :]
    return bytes(content)
