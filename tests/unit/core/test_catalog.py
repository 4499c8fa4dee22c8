"""Registering an image: brought under the root, or refused with the root as it was."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from publisher.core.catalog import discard_old_incoming, incoming, register
from publisher.core.errors import Conflict, InvalidRequest
from publisher.core.image import Image
from publisher.core.store import Store
from tests import disks
from tests.unit.core.records import APPLIANCE, OWNER, add_owner

CONTENT = disks.raw(b"a disk" * 1000)


@pytest.fixture
def root(tmp_path: Path, sqlite_store: Store) -> Path:
    add_owner(sqlite_store)
    return tmp_path / "root"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "disk.img").write_bytes(CONTENT)
    return tmp_path / "disk.img"


def add(store: Store, root: Path, file: Path, *, id: int | None = None, link: bool = False) -> Image:
    return register(store, root, file, owner=OWNER, appliance_id=APPLIANCE, id=id, link=link)


def inventory(root: Path) -> set[Path]:
    return set(root.rglob("*")) if root.exists() else set()


def test_a_file_is_copied_in(sqlite_store: Store, root: Path, file: Path) -> None:
    image = add(sqlite_store, root, file)
    assert (root / image.location).read_bytes() == CONTENT
    assert (root / image.location).stat().st_ino != file.stat().st_ino
    assert (image.name, image.format, image.disk_format, image.size, image.virtual_size) == (
        *("disk", "raw", "raw"),
        *(len(CONTENT), len(CONTENT)),
    )
    assert image.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert sqlite_store.images.get(image.id) == image
    assert file.exists()


def test_two_files_of_one_name_do_not_meet(sqlite_store: Store, root: Path, file: Path) -> None:
    assert add(sqlite_store, root, file).location != add(sqlite_store, root, file).location


def test_a_file_is_linked_in(sqlite_store: Store, root: Path, file: Path) -> None:
    image = add(sqlite_store, root, file, link=True)
    assert (root / image.location).stat().st_ino == file.stat().st_ino
    assert not (root / image.location).is_symlink()


def test_linking_a_link_links_what_it_leads_to(sqlite_store: Store, root: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(file)
    image = add(sqlite_store, root, tmp_path / "latest", link=True)
    assert (root / image.location).stat().st_ino == file.stat().st_ino
    assert not (root / image.location).is_symlink()


@pytest.mark.parametrize("way", ["{root}/a/disk", "{root}/a/../a/disk", "{root}/../root/a/disk"])
def test_a_file_in_the_root_stays_where_it_is(sqlite_store: Store, root: Path, way: str) -> None:
    (root / "a").mkdir(parents=True)
    (root / "a" / "disk").write_bytes(CONTENT)
    before = inventory(root)
    assert add(sqlite_store, root, Path(way.format(root=root))).location == "a/disk"
    assert inventory(root) == before


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", ["to a file outside", "to a directory outside", "to a file inside"])
def test_a_link_in_the_root_is_refused(
    sqlite_store: Store, root: Path, file: Path, tmp_path: Path, kind: str, link: bool
) -> None:
    root.mkdir()
    (root / "real").write_bytes(CONTENT)
    (root / "link").symlink_to(
        {"to a file outside": file, "to a directory outside": tmp_path, "to a file inside": root / "real"}[kind]
    )
    asked = root / "link" / file.name if kind == "to a directory outside" else root / "link"
    before = inventory(root)
    with pytest.raises(InvalidRequest, match="leads out of the image root, or through a link in it"):
        add(sqlite_store, root, asked, link=link)
    assert inventory(root) == before
    assert sqlite_store.images.list() == []


@pytest.mark.parametrize("kind", ["none", "empty", "directory", "pipe", "dangling link"])
def test_what_is_no_file_is_refused(sqlite_store: Store, root: Path, tmp_path: Path, kind: str) -> None:
    asked = tmp_path / "asked"
    match kind:
        case "empty":
            asked.touch()
        case "directory":
            asked.mkdir()
        case "pipe":
            os.mkfifo(asked)
        case "dangling link":
            asked.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match=r"no such file|the file is empty"):
        add(sqlite_store, root, asked)
    assert inventory(root) == set()


@pytest.mark.parametrize("link", [False, True])
def test_a_taken_id_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path, link: bool) -> None:
    assert add(sqlite_store, root, file, id=7).id == 7
    before = inventory(root)
    with pytest.raises(Conflict, match="image 7 already"):
        add(sqlite_store, root, file, id=7, link=link)
    assert inventory(root) == before
    assert file.read_bytes() == CONTENT


def test_a_refused_file_of_the_root_is_kept(sqlite_store: Store, root: Path, file: Path) -> None:
    add(sqlite_store, root, file, id=7)
    (root / "mine").write_bytes(CONTENT)
    with pytest.raises(Conflict):
        add(sqlite_store, root, root / "mine", id=7)
    assert (root / "mine").exists()


def test_an_unknown_owner_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path) -> None:
    with pytest.raises(Conflict, match="no user 'nobody'"):
        register(sqlite_store, root, file, owner="nobody", appliance_id=4)
    assert inventory(root) == set()


def test_being_interrupted_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register(sqlite_store, root, file, owner=OWNER, appliance_id=4, on_progress=interrupt)
    assert inventory(root) == set()
    assert sqlite_store.images.list() == []


def test_a_wrong_format_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path) -> None:
    with pytest.raises(InvalidRequest, match="means a qcow2 file, but the file is raw"):
        register(sqlite_store, root, file, owner=OWNER, appliance_id=4, format="qcow2")
    assert inventory(root) == set()


def test_a_qcow2_is_known_with_its_virtual_size(sqlite_store: Store, root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(disks.qcow2(20 << 30))
    image = register(
        sqlite_store, root, tmp_path / "disk.qcow2", owner=OWNER, appliance_id=4, format="openstackqcow2", name="web"
    )
    assert (image.format, image.disk_format, image.virtual_size, image.name) == (
        *("openstackqcow2", "qcow2"),
        *(20 << 30, "web"),
    )
    assert image.size < image.virtual_size


def test_hashing_tells_its_progress(sqlite_store: Store, root: Path, file: Path) -> None:
    steps: list[int] = []
    register(sqlite_store, root, file, owner=OWNER, appliance_id=4, on_progress=steps.append)
    assert sum(steps) == len(CONTENT)


@pytest.mark.parametrize("given", [None, 50])
def test_ids_go_on_after_one_that_was_given(store: Store, tmp_path: Path, file: Path, given: int | None) -> None:
    add_owner(store)
    first = add(store, tmp_path / "root", file, id=given)
    assert add(store, tmp_path / "root", file).id == first.id + 1


def test_what_nobody_has_written_to_for_a_day_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    discard_old_incoming(tmp_path)  # there may be none
    old, new, directory = (incoming(tmp_path, name) for name in ("old", "new", "directory"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    yesterday = time.time() - 86500
    os.utime(old, (yesterday, yesterday))
    discard_old_incoming(tmp_path)
    assert inventory(old.parent) == {new}
    directory.mkdir()
    os.utime(directory, (yesterday, yesterday))
    discard_old_incoming(tmp_path)
    assert "cannot be deleted" in caplog.text
