"""Scratch space: each attempt has its own, it is limited, and nothing is left of it, even after a kill."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from publisher.core.errors import ConfigurationError, Reason, TransientCloudError
from publisher.core.settings import Settings
from tests.patience import PATIENCE
from workers.scratch import Scratch, discard_abandoned_scratch

MIB = 1 << 20
Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, scratch_bytes_max=100 * MIB, disk_free_bytes_min=MIB)


@pytest.fixture
def scratch(settings: Settings) -> Iterator[Scratch]:
    scratch = Scratch(settings)
    yield scratch
    scratch.close()


def left(settings: Settings) -> list[str]:
    return sorted(each.name for each in settings.scratch.iterdir())


def test_nothing_is_created_until_it_is_needed(settings: Settings, scratch: Scratch) -> None:
    scratch.close()
    discard_abandoned_scratch(settings.scratch)
    assert not settings.scratch.exists()


def test_all_of_it_is_deleted_at_the_end(settings: Settings, scratch: Scratch) -> None:
    one, other = scratch.reserve(MIB), scratch.reserve(MIB)
    assert one != other
    assert one.stat().st_mode & 0o777 == 0o700
    (one / "disk.raw").write_bytes(b"x" * 100)
    (other / "below").mkdir()
    (other / "below" / "disk.raw").write_bytes(b"x")
    scratch.close()
    assert left(settings) == []


def test_space_that_comes_after_the_end_is_deleted_at_once(settings: Settings, scratch: Scratch) -> None:
    """The call of a plugin that was abandoned goes on in its thread."""
    scratch.close()
    scratch.reserve(1)
    assert left(settings) == []


def test_directory_can_be_chosen(tmp_path: Path) -> None:
    scratch = Scratch(Settings(data_dir=tmp_path, scratch_dir=tmp_path / "large" / "disk"))
    assert scratch.reserve(1).parent == tmp_path / "large" / "disk"
    scratch.close()


def test_more_than_the_limit_is_never_given(scratch: Scratch) -> None:
    with pytest.raises(ConfigurationError, match=r"needs 101 MiB .* PUBLISHER_SCRATCH_BYTES_MAX allows 100 MiB"):
        scratch.reserve(101 * MIB)


def test_limit_is_for_all_attempts_together(settings: Settings, scratch: Scratch) -> None:
    other = Scratch(settings)
    other.reserve(60 * MIB)
    scratch.reserve(40 * MIB)
    with pytest.raises(TransientCloudError, match=r"needs 1 MiB .* 1 MiB more than there is now") as refused:
        scratch.reserve(MIB)
    assert refused.value.reason is Reason.CONFIGURATION
    other.close()
    scratch.reserve(60 * MIB)


def test_free_space_is_checked(settings: Settings, scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others have asked for but not yet written counts as used."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 31 * MIB))
    other = Scratch(settings)
    with pytest.raises(TransientCloudError, match="1 MiB more than there is now"):
        scratch.reserve(31 * MIB)
    file = other.reserve(20 * MIB) / "disk.raw"
    scratch.reserve(5 * MIB)
    with pytest.raises(TransientCloudError):
        scratch.reserve(10 * MIB)
    file.write_bytes(b"x" * 10 * MIB)
    scratch.reserve(10 * MIB)
    other.close()


def test_unusable_directory_is_an_error_that_another_attempt_may_fix() -> None:
    # Nobody can create a directory there, not even root.
    with pytest.raises(TransientCloudError, match="cannot be used: No such file or directory"):
        Scratch(Settings(data_dir=Path("/proc"))).reserve(1)


def test_file_in_place_of_the_directory_is_an_error(settings: Settings, scratch: Scratch) -> None:
    settings.scratch.write_bytes(b"")
    with pytest.raises(TransientCloudError, match="cannot be used: "):
        scratch.reserve(1)


# Killed workers -------------------------------------------------------------------------------------------------------

_HOLD = """
import sys, time
from pathlib import Path
from publisher.core.settings import Settings
from workers.scratch import Scratch
space = Scratch(Settings(data_dir=Path(sys.argv[1]), scratch_bytes_max=100 << 20)).reserve(int(sys.argv[2]))
(space / "disk.raw").write_bytes(b"x" * 1000)
print(space.name, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def worker(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process that holds 60 MiB."""
    command = [sys.executable, "-c", _HOLD, str(settings.data_dir), str(60 * MIB)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().strip() in left(settings)
        yield process
        process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10 * PATIENCE)


@pytest.mark.long
def test_leftovers_of_a_killed_worker_are_deleted(settings: Settings, worker: subprocess.Popen[str]) -> None:
    mine = Scratch(settings)
    kept = mine.reserve(MIB)
    (settings.scratch / "of the operator").mkdir()
    discard_abandoned_scratch(settings.scratch)
    assert len(left(settings)) == 3, "those of living workers stay"
    kill(worker)
    discard_abandoned_scratch(settings.scratch)
    assert left(settings) == sorted([kept.name, "of the operator"])
    mine.close()


@pytest.mark.long
def test_leftovers_make_room_when_it_is_needed(
    settings: Settings, scratch: Scratch, worker: subprocess.Popen[str]
) -> None:
    with pytest.raises(TransientCloudError):
        scratch.reserve(50 * MIB)
    kill(worker)
    made = scratch.reserve(50 * MIB)
    assert left(settings) == [made.name]


def test_leftovers_of_another_machine_stay_for_a_day(settings: Settings) -> None:
    settings.scratch.mkdir()
    foreign = settings.scratch / f"{'a' * 32}-100.another-boot"
    foreign.mkdir()
    (foreign / "disk.raw").write_bytes(b"x")
    discard_abandoned_scratch(settings.scratch)
    assert left(settings) == [foreign.name]
    two_days_ago = time.time() - 2 * 86400
    for each in (foreign / "disk.raw", foreign):
        os.utime(each, (two_days_ago, two_days_ago))
    discard_abandoned_scratch(settings.scratch)
    assert left(settings) == []


def test_link_in_the_scratch_directory_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"x")
    settings.scratch.mkdir()
    (settings.scratch / f"{'b' * 32}-1").symlink_to(tmp_path / "elsewhere")
    discard_abandoned_scratch(settings.scratch)
    assert (tmp_path / "elsewhere" / "file").exists()


def test_what_cannot_be_deleted_is_logged(
    settings: Settings, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    name = scratch.reserve(1).name
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(shutil, "rmtree", fail)
        scratch.close()
    assert f"{name}: Operation not permitted" in caplog.text
    discard_abandoned_scratch(settings.scratch)
    assert left(settings) == []
