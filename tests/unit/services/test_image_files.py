"""An image is registered under the root, or refused with the root unchanged; where images may be fetched from."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import Conflict, InvalidRequest
from publisher.core.image import Image, checksum
from publisher.services.image_files import check_remote, register
from publisher.store import Store
from tests import disks
from tests.compressed import COMPRESS
from tests.records import APPLIANCE, OWNER, add_owner

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
    """Return all files, except the directory of unfinished files, which stays."""
    return set(root.rglob("*")) - {root / ".incoming"} if root.exists() else set()


def test_file_is_copied_into_the_root(sqlite_store: Store, root: Path, file: Path) -> None:
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


def test_two_files_of_one_name_are_kept_apart(sqlite_store: Store, root: Path, file: Path) -> None:
    assert add(sqlite_store, root, file).location != add(sqlite_store, root, file).location


def test_file_is_linked_into_the_root(sqlite_store: Store, root: Path, file: Path) -> None:
    image = add(sqlite_store, root, file, link=True)
    assert (root / image.location).stat().st_ino == file.stat().st_ino
    assert not (root / image.location).is_symlink()


def test_linking_a_link_links_its_target(sqlite_store: Store, root: Path, file: Path, tmp_path: Path) -> None:
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
def test_symlink_in_the_root_is_refused(
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
def test_anything_but_a_file_is_refused(sqlite_store: Store, root: Path, tmp_path: Path, kind: str) -> None:
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
def test_image_with_a_taken_id_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path, link: bool) -> None:
    assert add(sqlite_store, root, file, id=7).id == 7
    before = inventory(root)
    with pytest.raises(Conflict, match="image 7 already"):
        add(sqlite_store, root, file, id=7, link=link)
    assert inventory(root) == before
    assert file.read_bytes() == CONTENT


def test_a_refused_file_in_the_root_is_kept(sqlite_store: Store, root: Path, file: Path) -> None:
    add(sqlite_store, root, file, id=7)
    (root / "mine").write_bytes(CONTENT)
    with pytest.raises(Conflict):
        add(sqlite_store, root, root / "mine", id=7)
    assert (root / "mine").exists()


def test_an_unknown_owner_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path) -> None:
    with pytest.raises(Conflict, match="no user 'nobody'"):
        register(sqlite_store, root, file, owner="nobody", appliance_id=4)
    assert inventory(root) == set()


def test_an_interruption_leaves_nothing_behind(sqlite_store: Store, root: Path, file: Path) -> None:
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


def test_qcow2_is_registered_with_its_virtual_size(sqlite_store: Store, root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(disks.qcow2(20 << 30))
    image = register(
        sqlite_store, root, tmp_path / "disk.qcow2", owner=OWNER, appliance_id=4, format="openstackqcow2", name="web"
    )
    assert (image.format, image.disk_format, image.virtual_size, image.name) == (
        *("openstackqcow2", "qcow2"),
        *(20 << 30, "web"),
    )
    assert image.size < image.virtual_size


def test_hashing_reports_its_progress(sqlite_store: Store, root: Path, file: Path) -> None:
    steps: list[int] = []
    register(sqlite_store, root, file, owner=OWNER, appliance_id=4, on_progress=steps.append)
    assert sum(steps) == len(CONTENT)


@pytest.mark.parametrize("given", [None, 50])
def test_ids_continue_after_a_given_one(store: Store, tmp_path: Path, file: Path, given: int | None) -> None:
    add_owner(store)
    first = add(store, tmp_path / "root", file, id=given)
    assert add(store, tmp_path / "root", file).id == first.id + 1


# Compressed, sparse, interrupted ------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("link", [False, True])
def test_compressed_file_is_decompressed(
    sqlite_store: Store, root: Path, tmp_path: Path, kind: str, link: bool
) -> None:
    disk = disks.qcow2(20 << 30)
    packed = tmp_path / f"web.qcow2.{kind}"
    packed.write_bytes(COMPRESS[kind](disk))
    image = add(sqlite_store, root, packed, link=link)
    assert (image.name, image.file_name, image.disk_format, image.size) == ("web", "web.qcow2", "qcow2", len(disk))
    assert image.sha256 == hashlib.sha256(disk).hexdigest()
    assert (root / image.location).read_bytes() == disk
    assert packed.read_bytes() == COMPRESS[kind](disk), "that one is its owner's"


def test_a_compressed_file_in_the_root_is_kept_beside_its_content(sqlite_store: Store, root: Path) -> None:
    (root / "a").mkdir(parents=True)
    packed = root / "a" / "disk.gz"
    packed.write_bytes(COMPRESS["gz"](CONTENT))
    image = add(sqlite_store, root, packed)
    assert image.file_name == "disk"
    assert image.location != "a/disk"
    assert (root / image.location).read_bytes() == CONTENT
    assert packed.read_bytes() == COMPRESS["gz"](CONTENT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (COMPRESS["xz"](CONTENT)[:-9], "the xz file is incomplete"),
        (COMPRESS["gz"](CONTENT) + b"and more", "the gz file is followed by other data"),
        (COMPRESS["gz"](b""), "the file contains no data"),
        (COMPRESS["gz"](COMPRESS["xz"](CONTENT)), "is compressed twice"),
    ],
)
def test_a_file_that_cannot_be_unpacked_leaves_nothing_behind(
    sqlite_store: Store, root: Path, file: Path, content: bytes, words: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=words):
        add(sqlite_store, root, file)
    assert inventory(root) == set()


@pytest.mark.long
def test_sparse_file_stays_sparse(sqlite_store: Store, root: Path, tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as sparse:
        sparse.write(CONTENT)
        sparse.truncate(1 << 28)
    steps: list[int] = []
    image = register(
        sqlite_store, root, tmp_path / "disk.img", owner=OWNER, appliance_id=APPLIANCE, on_progress=steps.append
    )
    assert image.size == sum(steps) == (root / image.location).stat().st_size == 1 << 28
    assert (root / image.location).stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("way", ["copied", "linked", "kept"])
def test_a_wrong_checksum_is_refused(sqlite_store: Store, root: Path, file: Path, way: str) -> None:
    if way == "kept":
        root.mkdir()
        file = file.rename(root / "disk")
    before = inventory(root)
    for algorithm in ("md5", "sha256"):
        right = hashlib.new(algorithm, CONTENT, usedforsecurity=False).hexdigest()
        wrong = right[::-1]
        with pytest.raises(InvalidRequest, match=f"--{algorithm}: the image's {algorithm} is {right}, not {wrong}"):
            register(
                sqlite_store, root, file, owner=OWNER, appliance_id=APPLIANCE, link=way == "linked",
                expected=(checksum(algorithm, wrong, f"--{algorithm}"),),
            )  # fmt: skip
        assert inventory(root) == before
        assert register(
            sqlite_store, root, file, owner=OWNER, appliance_id=APPLIANCE, link=way == "linked",
            expected=(checksum(algorithm, right, f"--{algorithm}"),),
        )  # fmt: skip
        before = inventory(root)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["os.pwrite", "os.fsync", "publisher.services.image_files.examine", "os.ftruncate"])
def test_an_interruption_at_any_point_leaves_nothing_behind(
    sqlite_store: Store, root: Path, file: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], where: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(where, interrupt)
    with pytest.raises(error):
        add(sqlite_store, root, file)
    monkeypatch.undo()
    assert inventory(root) == set()
    assert list((root / ".incoming").glob("*")) == []
    assert sqlite_store.images.list() == []


@pytest.mark.parametrize(("committed", "kept"), [(True, 2), (False, 0)])
def test_an_interruption_during_the_commit_keeps_the_file_of_an_image(
    sqlite_store: Store, root: Path, file: Path, monkeypatch: pytest.MonkeyPatch, committed: bool, kept: int
) -> None:
    """The file and its directory are kept if the image is in the store."""
    commit = sqlite_store.images.add

    def interrupted(**values: Any) -> Image:
        if committed:
            commit(**values)
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlite_store.images, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add(sqlite_store, root, file)
    assert [(root / each.location).exists() for each in sqlite_store.images.list()] == [True] * committed
    assert len(inventory(root)) == kept


# Names ------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b", "a\u2028b", "\udcff", "x" * 256])
def test_invalid_name_is_refused(sqlite_store: Store, root: Path, file: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^name: "):
        register(sqlite_store, root, file, owner=OWNER, appliance_id=APPLIANCE, name=name)
    assert inventory(root) == set()


def test_a_file_with_a_name_that_is_not_utf8_is_refused_or_renamed(
    sqlite_store: Store, root: Path, tmp_path: Path
) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.img"))
    file.write_bytes(CONTENT)
    with pytest.raises(InvalidRequest, match=r"^name: is not UTF-8"):
        add(sqlite_store, root, file)
    image = register(sqlite_store, root, file, owner=OWNER, appliance_id=APPLIANCE, name="b")
    assert image.file_name == "b_.img"
    root.joinpath("kept").mkdir()
    kept = file.rename(Path(os.fsdecode(os.fsencode(root) + b"/kept/b\xff.img")))
    with pytest.raises(InvalidRequest, match="is not UTF-8 or cannot be shown; rename it") as raised:
        register(sqlite_store, root, kept, owner=OWNER, appliance_id=APPLIANCE, name="b")
    assert str(raised.value).isprintable()


def test_only_the_owner_can_enter_directories_above_the_image_root(sqlite_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(CONTENT)
    add_owner(sqlite_store)
    root = tmp_path / "new" / "data" / "images"
    before = os.umask(0)
    try:
        register(sqlite_store, root, file, owner=OWNER, appliance_id=APPLIANCE)
    finally:
        os.umask(before)
    modes = [each.stat().st_mode & 0o777 for each in (root.parents[1], root.parent, root)]
    assert modes == [0o700, 0o700, 0o750]


@pytest.mark.parametrize("allowed", ["*", "*/*", "bucket", "*bucket", "s3:*", "http://bucket", "s3://other"])
def test_patterns_for_hosts_admit_no_bucket(allowed: str) -> None:
    with pytest.raises(InvalidRequest, match="'bucket' is not among PUBLISHER_LOCATION_HOSTS"):
        check_remote("s3://bucket/disk.raw", allowed)


@pytest.mark.parametrize("allowed", ["*, s3://bucket", "s3://*", "S3://buck*"])
def test_patterns_for_buckets_admit_buckets(allowed: str) -> None:
    check_remote("s3://bucket/disk.raw", allowed)


def test_an_asterisk_allows_all_hosts() -> None:
    check_remote("https://images.example.com/disk.raw", "*")
