"""A disk image file is read once, and opened only below the image root, without links."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from publisher.core.errors import ImageFileError
from publisher.core.image import open_under
from publisher.files.hashing import digest
from tests.patience import PATIENCE


def test_digest_hashes_the_file_and_reports_progress(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) * 2 + 12345)
    (tmp_path / "image").write_bytes(content)
    steps: list[int] = []
    told = digest(tmp_path / "image", steps.append)
    assert told.size == sum(steps) == len(content)
    assert len(steps) >= 3
    assert told.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert told.sha256 == hashlib.sha256(content).hexdigest()
    assert told.sha512 == hashlib.sha512(content).hexdigest()


# open_under -----------------------------------------------------


def descriptors() -> list[str]:
    return sorted(str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "disk").write_bytes(b"content")
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "inner-link").symlink_to(root / "a" / "b" / "disk")
    (root / "linked").symlink_to(tmp_path)
    (root / "inner-linked").symlink_to(root / "a")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("location", ["a/b/disk", "./a/b/disk", "a//b/disk"])
def test_a_file_under_the_root_is_opened(root: Path, location: str) -> None:
    descriptor = open_under(root, location)
    try:
        assert os.read(descriptor, 100) == b"content"
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../outside", "outside the image root"),
        ("a/../../outside", "outside the image root"),
        ("a/b/../b/disk", "outside the image root"),
        ("/etc/passwd", "outside the image root"),
        ("", "outside the image root"),
        (".", "outside the image root"),
        ("link", "cannot be opened"),
        ("inner-link", "cannot be opened"),
        ("linked/outside", "cannot be opened"),
        ("inner-linked/b/disk", "cannot be opened"),
        ("a", "not a regular file"),
        ("pipe", "not a regular file"),
        ("a/b/disk/more", "cannot be opened"),
        ("a/none", "no longer there; generate the image again"),
        ("none/disk", "no longer there"),
        ("a/b/disk\0", "cannot be opened|outside the image root"),
    ],
)
def test_location_outside_the_root_or_by_a_link_is_refused(root: Path, location: str, words: str) -> None:
    before = descriptors()
    with pytest.raises(ImageFileError, match=words):
        open_under(root, location)
    assert descriptors() == before


def test_missing_root_is_reported_as_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="image root"):
        open_under(tmp_path / "unmounted", "disk")


def test_a_pipe_with_a_writer_does_not_hang(root: Path) -> None:
    writer = os.open(root / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        outcome: list[BaseException] = []

        def attempt() -> None:
            try:
                open_under(root, "pipe")
            except ImageFileError as error:
                outcome.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(5 * PATIENCE)
        assert outcome
    finally:
        os.close(writer)
