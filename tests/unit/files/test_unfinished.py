"""Files on their way into the image root, and files that a killed process left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publisher.files.unfinished import Arrival, discard_abandoned, fetching, is_ours

BROUGHT = "0123456789ab4def8123456789abcdef"
KILLED = """
import sys, time
from pathlib import Path
from publisher.files.unfinished import Arrival, fetching
root = Path(sys.argv[1])
with Arrival(root, "disk", lambda _: False) as arrival, fetching(root, 7, 1) as incoming:
    arrival.path.write_bytes(b"half")
    incoming.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(600)
"""


def nowhere(_: str) -> bool:
    return False


def files(root: Path) -> list[str]:
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.name != ".incoming")


def aged(path: Path, seconds: float = 86500) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


@pytest.mark.long
def test_files_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        before = files(tmp_path)
        assert len(before) == 4
        discard_abandoned(tmp_path, nowhere)
        assert files(tmp_path) == before, "it is alive"
        writer.send_signal(signal.SIGKILL)
        writer.wait(60)
        discard_abandoned(tmp_path, nowhere)
        assert files(tmp_path) == []
    finally:
        writer.kill()
        writer.communicate(timeout=60)


def test_file_of_a_registered_image_is_kept(tmp_path: Path) -> None:
    with Arrival(tmp_path, "disk", nowhere) as arrival:
        arrival.path.write_bytes(b"whole")
        mark = next((tmp_path / ".incoming").iterdir())
        os.link(mark, tmp_path / "mark")
    (tmp_path / "mark").rename(mark)  # as if killed between the commit and the end
    discard_abandoned(tmp_path, arrival.location.__eq__)
    assert files(tmp_path) == [arrival.location.partition("/")[0], arrival.location]


def test_failed_arrival_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Arrival(tmp_path, "disk", nowhere) as arrival:
            arrival.path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path) == []


def test_files_of_another_machine_are_kept_for_a_day(tmp_path: Path) -> None:
    (tmp_path / ".incoming").mkdir()
    marks = [tmp_path / ".incoming" / name for name in (f"{BROUGHT}.another-boot", "7-1.another-boot", "7-2")]
    for mark in marks:
        mark.write_bytes(b"half")
    (tmp_path / BROUGHT).mkdir()
    (tmp_path / BROUGHT / "disk").write_bytes(b"half")
    before = files(tmp_path)
    discard_abandoned(tmp_path, nowhere)
    assert files(tmp_path) == before
    for mark in marks:
        aged(mark)
    discard_abandoned(tmp_path, nowhere)
    assert f"{BROUGHT}/disk" in files(tmp_path), "this is written to still"
    aged(tmp_path / BROUGHT / "disk")
    discard_abandoned(tmp_path, nowhere)
    assert files(tmp_path) == []


def test_locked_file_is_kept_regardless_of_its_age(tmp_path: Path) -> None:
    with fetching(tmp_path, 7, 1) as incoming:
        aged(incoming)
        discard_abandoned(tmp_path, nowhere)
        assert incoming.exists()
    assert files(tmp_path) == []


def test_files_of_the_operator_are_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "disk").write_bytes(b"mine")
    (tmp_path / BROUGHT).mkdir()
    (tmp_path / BROUGHT / "disk").write_bytes(b"of an image whose row is in a backup")
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "kept").write_bytes(b"")
    (tmp_path / ".incoming" / "link").symlink_to(tmp_path / "kept" / "disk")
    for each in tmp_path.rglob("*"):
        aged(each) if not each.is_symlink() else None
    discard_abandoned(tmp_path, nowhere)
    assert {"kept/disk", f"{BROUGHT}/disk"} <= set(files(tmp_path))


def test_failed_deletion_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    discard_abandoned(tmp_path, nowhere)  # the directory may be missing
    (tmp_path / ".incoming" / "directory").mkdir(parents=True)
    discard_abandoned(tmp_path, nowhere)
    assert "cannot be deleted" in caplog.text


def test_mark_deleted_before_its_lock_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, calls = fcntl.flock, 0

    def late(descriptor: int, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            Path(f"/proc/self/fd/{descriptor}").readlink().unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with fetching(tmp_path, 7, 1) as incoming:
        assert incoming.exists()
    assert calls == 2


@pytest.mark.parametrize("location", [".incoming/7-1", f"{BROUGHT}/disk", f"./{BROUGHT}/disk"])
def test_files_of_the_service_are_distinguished_from_others(location: str) -> None:
    assert is_ours(location)
    assert not is_ours(f"kept/{location.removeprefix('./')}")
