"""Every plugin sends a file such that the progress is right and the transfer can be stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from publisher.core.errors import Cancelled, LeaseLost, PermanentCloudError, Stopped
from publisher.core.image import Image
from tests.contract.harness import Harness, record_of, transfer_of
from tests.patience import PATIENCE

pytestmark = pytest.mark.long

MIB = 1 << 20
STOP_SECONDS = 2.0
"""Maximum time that all parts need to stop."""


class Sent(list[int]):
    """The progress. It never falls."""

    def __call__(self, count: int) -> None:
        assert not self or count >= self[-1]
        self.append(count)


@pytest.fixture
def sparse(tmp_path: Path) -> tuple[Image, Path]:
    """A file that begins and ends with a hole, and whose size is no multiple of anything."""
    file = tmp_path / "sparse.raw"
    with file.open("wb") as opened:
        for offset, length in ((3 * MIB + 5, MIB), (6 * MIB, 2 * MIB + 77)):
            opened.seek(offset)
            opened.write(os.urandom(length))
        opened.truncate(9 * MIB + 1001)
    return record_of(file), file


def test_file_with_holes_arrives_and_counts_in_full(harness: Harness, sparse: tuple[Image, Path]) -> None:
    record, file = sparse
    sent = Sent()
    uploaded = harness.connect().upload(record, harness.ref, transfer_of(file, on_sent=sent))
    received = harness.content(uploaded.cloud_id)
    assert received[: record.size] == file.read_bytes()
    assert not any(received[record.size :]), "a cloud that takes only whole blocks gets zeros"
    assert sent[-1] == record.size
    harness.clean_up()


def test_file_of_one_byte_arrives(harness: Harness, tmp_path: Path) -> None:
    file = tmp_path / "tiny.raw"
    file.write_bytes(b"x")
    published = harness.publish((record_of(file), file))
    assert harness.content(published.cloud_id)[:1] == b"x"
    harness.clean_up()


@pytest.mark.parametrize("reason", [Cancelled, LeaseLost])
def test_transfer_stops_soon(harness: Harness, image: tuple[Image, Path], reason: type[Stopped]) -> None:
    record, file = image
    stop = threading.Event()
    stopped: list[float] = []
    sent = Sent()

    def on_sent(count: int) -> None:
        sent(count)
        if not stopped:
            stopped.append(time.monotonic())
            stop.set()

    def check() -> None:
        if stop.is_set():
            raise reason

    cloud = harness.connect()
    with pytest.raises(reason):
        cloud.upload(record, harness.ref, transfer_of(file, check=check, on_sent=on_sent))
    assert time.monotonic() - stopped[0] < STOP_SECONDS * PATIENCE
    assert sent[-1] < record.size
    threads = [each.name for each in threading.enumerate() if each.name == "part"]
    assert threads == [], "no part goes on"
    harness.clean_up()
    assert harness.connect().find(harness.ref) is None


def test_file_that_is_not_the_registered_one_is_noticed(harness: Harness, small: tuple[Image, Path]) -> None:
    """By the plugin, or by the worker, which compares the hash that the cloud reports."""
    record, file = small
    with file.open("r+b") as opened:
        opened.write(b"changed")
    try:
        uploaded = harness.connect().upload(record, harness.ref, transfer_of(file))
    except PermanentCloudError:
        pass
    else:
        told = {"sha256": uploaded.source_sha256} if uploaded.source_sha256 else uploaded.hashes
        assert told
        assert all(value != getattr(record, name) for name, value in told.items())
    harness.clean_up()
