"""Thousands of disk file headers with changed numbers: each is quickly refused, or accepted with valid numbers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from publisher.core.errors import InvalidRequest
from publisher.core.image import DISK_FORMATS
from publisher.files.disk_format import VIRTUAL_SIZE_MAX, examine
from tests.image_cases import ACCEPTED, REFUSED, ImageCase, mutated

COUNT = 5000 if os.environ.get("FULL") else 600
"""Set `FULL=1` to test all of them."""
CPU_SECONDS_MAX = 1.0


@pytest.mark.long
def test_mutated_header_is_refused_or_accepted_quickly(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    accepted = refused = 0
    for seed in range(COUNT):
        file.write_bytes(mutated(seed))
        began = time.thread_time()
        try:
            disk = examine(file, wanted_format=(None, "raw", "openstackvmdk")[seed % 3], file_name="disk")
        except InvalidRequest:
            refused += 1
        else:
            assert disk.disk_format in DISK_FORMATS, seed
            assert 0 < disk.virtual_size <= VIRTUAL_SIZE_MAX, seed
            accepted += 1
        assert time.thread_time() - began < CPU_SECONDS_MAX, seed
    assert accepted > COUNT // 20, "the changes are so small that some are still disks"
    assert refused > COUNT // 4


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_unusable_file_is_refused_quickly(case: ImageCase, tmp_path: Path) -> None:
    (tmp_path / case.name).write_bytes(case.content)
    began = time.thread_time()
    with pytest.raises(InvalidRequest) as raised:
        examine(tmp_path / case.name, wanted_format=None, file_name=case.name)
    assert all(part in str(raised.value) for part in case.refused), raised.value
    assert time.thread_time() - began < CPU_SECONDS_MAX


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_usable_file_is_accepted_quickly(case: ImageCase, tmp_path: Path) -> None:
    (tmp_path / case.name).write_bytes(case.content)
    began = time.thread_time()
    disk = examine(tmp_path / case.name, wanted_format=None, file_name=case.name)
    assert (disk.disk_format, disk.virtual_size) == (case.disk_format, case.virtual_size)
    assert time.thread_time() - began < CPU_SECONDS_MAX
