"""Glances that differ: in hashes, in how long they process an image, in stores and in imports."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1.token_endpoint import Token

from publisher.core.errors import CloudError, InvalidRequest, PermanentCloudError, Stopped, TransientCloudError
from publisher.core.image import Image
from publisher.core.ticket import CloudRef, Target
from publisher.outbound.policy import EVERYWHERE
from tests.contract.harness import record_of
from tests.servers.glance_variants import GlanceVariant
from workers.clouds.base import CloudImage, Tags, TicketRef, Timeouts
from workers.clouds.openstack import arrival
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.clouds.openstack.session import ImageService, Reach
from workers.http_clients import trust
from workers.transfer import Transfer

IMPORT, DOWNLOAD = {"importMethod": "glance-direct"}, {"importMethod": "web-download"}
LINK = "https://publish.example.com/api/downloads?downloadId=the-key"


@dataclass
class Journalled:
    """A ticket's journal, in memory."""

    kept: dict[str, str] = field(default_factory=dict)

    def entries(self) -> list[CloudRef]:
        return [CloudRef(cloud_id, state) for cloud_id, state in self.kept.items()]

    def plan(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "planned"

    def present(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "present"

    def condemn(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "condemned"

    def gone(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "gone"


@dataclass
class Attempted:
    """One ticket, and what it is tried with."""

    cloud: OpenStackPublisher
    image: Image
    file: Path
    journal: Journalled = field(default_factory=Journalled)
    link: str | None = None

    @property
    def ref(self) -> TicketRef:
        tags = Tags("a-ticket", "tests")
        return TicketRef(tags, "pimages/1", "images/7", "appliances/4", self.journal, link=self.link)

    def upload(self, found: CloudImage | None = None) -> CloudImage:
        with self.file.open("rb") as file:
            transfer = Transfer(file.fileno(), self.image.size)
            return self.cloud.upload(self.image, replace(self.ref, found=found), transfer)


@contextmanager
def attempt(
    glance: GlanceVariant,
    directory: Path,
    target: Mapping[str, Any] | None = None,
    *,
    verify_seconds: float = 20.0,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Attempted]:
    file = directory / "image.raw"
    file.write_bytes(os.urandom(1000))
    image = record_of(file)
    with glance.serve() as url:
        reach = Reach(Timeouts(5.0, 20.0, verify_seconds), EVERYWHERE, trust(), check)
        fields = {"displayName": "variant", **(target or {})}
        session = reach.session(Token(url, "a token"))
        cloud = OpenStackPublisher(session, ImageService(url, None), Target("openstack", fields), reach)
        yield Attempted(cloud, image, file)
        cloud.close()


def fails(glance: GlanceVariant, directory: Path, target: Mapping[str, Any] | None = None, **more: Any) -> CloudError:
    with attempt(glance, directory, target, **more) as tried, pytest.raises(CloudError) as caught:
        tried.upload()
    return caught.value


# Hashes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hashes", "reported"),
    [
        (("checksum", "os_hash_value"), {"md5", "sha512"}),
        (("os_hash_value",), {"sha512"}),
        (("checksum",), {"md5"}),
        ((), set()),
    ],
)
def test_hash_that_is_null_is_not_reported(tmp_path: Path, hashes: tuple[str, ...], reported: set[str]) -> None:
    with attempt(GlanceVariant(hashes=hashes), tmp_path) as tried:
        uploaded = tried.upload()
        assert (uploaded.complete, uploaded.size) == (True, tried.image.size)
        assert uploaded.hashes == {name: getattr(tried.image, name) for name in reported}


# Processing -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_image_that_is_being_saved_is_waited_for(tmp_path: Path) -> None:
    glance = GlanceVariant(after_upload=[{"status": "saving"}, {"status": "saving"}, {"status": "active"}])
    with attempt(glance, tmp_path) as tried:
        uploaded = tried.upload()
    path = f"/v2/images/{uploaded.cloud_id}"
    assert glance.requests == ["POST /v2/images", f"PUT {path}/file", *[f"GET {path}"] * 3]


def test_active_image_costs_three_requests(tmp_path: Path) -> None:
    glance = GlanceVariant()
    with attempt(glance, tmp_path) as tried:
        tried.cloud.check(tried.image)
        asked_for_quotas = list(glance.requests)
        tried.cloud.check(tried.image)
        tried.cloud.finish(tried.upload(), tried.image)
    assert asked_for_quotas == ["GET /v2/info/usage"], "once, if the cloud has none to show"
    assert len(glance.requests) == len(asked_for_quotas) + 3


def test_image_that_is_never_saved_is_tried_again(tmp_path: Path) -> None:
    glance = GlanceVariant(after_upload=[{"status": "saving"}])
    error = fails(glance, tmp_path, verify_seconds=0.1)
    assert isinstance(error, TransientCloudError)
    assert "still saving after" in str(error)


@pytest.mark.parametrize("status", ["queued", "killed", "deleted", "unheard-of"])
def test_image_that_lost_its_bytes_is_tried_again(tmp_path: Path, status: str) -> None:
    error = fails(GlanceVariant(after_upload=[{"status": status}]), tmp_path)
    assert isinstance(error, TransientCloudError)
    assert f"is {status}, not active" in str(error)


@pytest.mark.long
def test_wait_for_the_cloud_can_be_stopped(tmp_path: Path) -> None:
    glance = GlanceVariant(after_upload=[{"status": "saving"}])

    def check() -> None:
        if sum(each.startswith("GET") for each in glance.requests) > 1:
            raise Stopped

    with attempt(glance, tmp_path, check=check) as tried, pytest.raises(Stopped):
        tried.upload()


def test_deactivated_image_is_a_permanent_error_that_says_so(tmp_path: Path) -> None:
    error = fails(GlanceVariant(after_upload=[{"status": "deactivated"}]), tmp_path)
    assert isinstance(error, PermanentCloudError)
    assert "was deactivated" in str(error)


def test_image_that_was_deactivated_between_attempts_is_not_replaced(tmp_path: Path) -> None:
    """Whoever deactivated it does not want it to be used."""
    glance = GlanceVariant()
    with attempt(glance, tmp_path) as tried:
        uploaded = tried.upload()
        glance._coming[uploaded.cloud_id] = [{"status": "deactivated"}]
        with pytest.raises(PermanentCloudError, match="was deactivated"):
            tried.cloud.find(tried.ref)
        tried.cloud.delete(uploaded.cloud_id, tried.ref.tags)
    assert glance.images == {}


# Stores ---------------------------------------------------------------------------------------------------------------


def test_image_goes_to_the_store_that_is_named(tmp_path: Path) -> None:
    glance = GlanceVariant(stores=["fast", "cheap"])
    with attempt(glance, tmp_path, {"store": "cheap"}) as tried:
        tried.cloud.check(tried.image)
        tried.upload()
    assert glance.store_named == ["cheap"]


@pytest.mark.parametrize("element", ["store", "importMethod"])
@pytest.mark.parametrize(
    ("offered", "words"), [(["one", "two"], "give one of: one, two"), ([], "leave it out"), (None, "leave it out")]
)
def test_what_the_cloud_does_not_offer_is_refused_before_anything_is_created(
    tmp_path: Path, element: str, offered: list[str] | None, words: str
) -> None:
    glance = GlanceVariant(stores=offered, imports=offered)
    with (
        attempt(glance, tmp_path, {element: "other"}) as tried,
        pytest.raises(InvalidRequest, match=f"{element}: this cloud does not offer 'other'; .*{words}"),
    ):
        tried.cloud.check(tried.image)
    assert len(glance.requests) == 1


# Imports --------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_image_is_staged_and_imported(tmp_path: Path) -> None:
    glance = GlanceVariant(imports=["glance-direct"], stores=["fast"])
    with attempt(glance, tmp_path, {**IMPORT, "store": "fast"}) as tried:
        tried.cloud.check(tried.image)
        uploaded = tried.upload()
        assert uploaded.hashes["sha512"] == tried.image.sha512
        assert tried.journal.kept == {uploaded.cloud_id: "present"}
    path = f"/v2/images/{uploaded.cloud_id}"
    assert glance.requests[2:] == [
        "POST /v2/images",
        f"PUT {path}/stage",
        f"POST {path}/import",
        f"GET {path}",
        f"GET {path}",
    ]
    assert glance.store_named == [["fast"]]


@pytest.mark.parametrize(
    "end",
    [
        [{"status": "importing"}, {"status": "queued"}],
        [{"status": "importing", "os_glance_failed_import": "fast"}],
        [{"os_glance_import_task": "a-task"}, {"os_glance_import_task": None}],
    ],
    ids=["queued again", "store failed", "lock released"],
)
@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        (["", "not a raw image"], PermanentCloudError, "could not import the image: not a raw image"),
        ([], TransientCloudError, "does not say why"),
    ],
    ids=["with reason", "without"],
)
@pytest.mark.long
def test_failed_import_says_what_the_cloud_says(
    tmp_path: Path, end: list[dict[str, Any]], messages: list[str], error: type[CloudError], words: str
) -> None:
    glance = GlanceVariant(imports=["glance-direct"], after_import=end, messages=messages)
    failed = fails(glance, tmp_path, IMPORT)
    assert type(failed) is error
    assert words in str(failed)


@pytest.mark.long
def test_record_of_a_failed_import_is_not_used_again(tmp_path: Path) -> None:
    glance = GlanceVariant(imports=["glance-direct"])
    with attempt(glance, tmp_path, IMPORT) as tried:
        left = str(uuid.uuid4())
        glance.images[left] = {"id": left, "status": "queued", "os_glance_failed_import": "fast"}
        tried.journal.present(left)
        found = tried.cloud.find(tried.ref)
        assert found is not None
        with tried.file.open("rb") as file:
            uploaded = tried.cloud.upload(
                tried.image, replace(tried.ref, found=found), Transfer(file.fileno(), tried.image.size)
            )
        assert tried.journal.kept == {left: "gone", uploaded.cloud_id: "present"}
    assert set(glance.images) == {uploaded.cloud_id}


CONVERTED: dict[str, Any] = {"status": "active", "disk_format": "qcow2", "size": 77, "os_hash_value": "0" * 128}


@pytest.mark.long
def test_conversion_by_the_cloud_is_accepted_for_the_file_that_was_sent(tmp_path: Path) -> None:
    end = [{"status": "importing"}, CONVERTED]
    with attempt(GlanceVariant(imports=["glance-direct"], after_import=end), tmp_path, IMPORT) as tried:
        with tried.file.open("rb") as file:
            transfer = Transfer(file.fileno(), tried.image.size)
            uploaded = tried.cloud.upload(tried.image, tried.ref, transfer)
        assert transfer.sha256 == tried.image.sha256
        found = tried.cloud.find(tried.ref)
    assert found is not None
    for each in (uploaded, found):
        assert (each.complete, dict(each.hashes)) == (True, {})
        assert (each.source_sha256, each.source_size) == (tried.image.sha256, tried.image.size)


@pytest.mark.long
def test_file_that_changed_before_its_conversion_is_noticed(tmp_path: Path) -> None:
    end = [{"status": "importing"}, CONVERTED]
    with attempt(GlanceVariant(imports=["glance-direct"], after_import=end), tmp_path, IMPORT) as tried:
        tried.file.write_bytes(os.urandom(tried.image.size))
        with tried.file.open("rb") as file:
            transfer = Transfer(file.fileno(), tried.image.size)
            tried.cloud.upload(tried.image, tried.ref, transfer)
    assert transfer.sha256 not in (None, tried.image.sha256)


@pytest.mark.long
def test_conversion_of_what_the_cloud_downloads_is_refused(tmp_path: Path) -> None:
    glance = GlanceVariant(imports=["web-download"], after_import=[{"status": "importing"}, CONVERTED])
    with attempt(glance, tmp_path, DOWNLOAD) as tried:
        tried.link = LINK
        with pytest.raises(PermanentCloudError, match="converted the image to qcow2"):
            tried.upload()


@pytest.mark.long
def test_import_that_never_begins_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail before its task is seen."""
    monkeypatch.setattr(arrival, "_PAUSE_SECONDS", 0.01)
    glance = GlanceVariant(imports=["glance-direct"], after_import=[{}], messages=["no space"])
    assert "could not import the image: no space" in str(fails(glance, tmp_path, IMPORT))


# Downloads by the cloud -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_cloud_downloads_the_image_from_the_link(tmp_path: Path) -> None:
    glance = GlanceVariant(imports=["web-download"])
    with attempt(glance, tmp_path, DOWNLOAD) as tried:
        tried.link = LINK
        tried.cloud.check(tried.image)
        arrived = {"size": tried.image.size, "os_hash_algo": "sha512", "os_hash_value": tried.image.sha512}
        glance.after_import = [
            {"os_glance_import_task": "a-task"},
            {"status": "importing"},
            {"status": "active", **arrived},
        ]
        uploaded = tried.upload()
        assert (uploaded.size, uploaded.hashes) == (tried.image.size, {"sha512": tried.image.sha512})
        assert tried.journal.kept == {uploaded.cloud_id: "present"}
    assert glance.downloaded == [LINK]
    assert [each for each in glance.requests if each.startswith("PUT")] == []


def test_download_without_a_hash_is_refused(tmp_path: Path) -> None:
    """Nobody could say what the cloud has received."""
    glance = GlanceVariant(imports=["web-download"], after_import=[{"status": "active", "size": 1000}])
    with attempt(glance, tmp_path, DOWNLOAD) as tried:
        tried.link = LINK
        with pytest.raises(PermanentCloudError, match="reports no hash"):
            tried.upload()


def test_download_needs_an_address_of_this_service(tmp_path: Path) -> None:
    glance = GlanceVariant(imports=["web-download"])
    with attempt(glance, tmp_path, DOWNLOAD) as tried:
        with pytest.raises(PermanentCloudError, match="importMethod: web-download needs PUBLISHER_PUBLIC_URL"):
            tried.upload()
        assert tried.journal.kept == {}
    assert glance.requests == []


@pytest.mark.long
def test_error_of_a_download_does_not_show_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    failing = [{"status": "importing"}, {"status": "queued"}]
    for glance in (
        GlanceVariant(imports=["web-download"], accepts_links=False),
        GlanceVariant(imports=["web-download"], after_import=failing, messages=[f"403 Forbidden: {LINK}"]),
    ):
        with attempt(glance, tmp_path, DOWNLOAD) as tried:
            tried.link = LINK
            with pytest.raises(PermanentCloudError, match="downloadId=\\*\\*\\*"):
                tried.upload()
            assert "the-key" not in repr(tried.ref)
    assert "the-key" not in caplog.text
