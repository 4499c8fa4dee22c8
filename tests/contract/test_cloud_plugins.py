"""Tests that every cloud plugin must pass: find, upload, delete and list images.

For a new plugin, add a module with a `Harness` to `tests/contract/clouds`.
"""

from __future__ import annotations

import sqlite3
import urllib.error
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from publisher.core.errors import Cancelled, InvalidRequest, PermanentCloudError, TransientCloudError
from publisher.core.image import Image
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance
from tests.contract.clouds.openstack import keystone_v3
from tests.contract.conftest import clouds
from tests.contract.harness import Harness, size_told, transfer_of
from tests.patience import PATIENCE
from workers.clouds.base import Tags
from workers.clouds.openstack.images import GlanceImages


@pytest.fixture(params=clouds(each_sign_in=True))
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with request.param.open(request) as harness:
        yield harness


@pytest.mark.long
def test_plugin_publishes_and_reports_size_and_hashes(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    cloud = harness.connect()
    cloud.check(record)
    assert cloud.find(harness.ref) is None
    uploaded = cloud.upload(record, harness.ref, transfer_of(file))
    finished = cloud.finish(uploaded, record)
    assert finished.complete
    assert size_told(finished) == record.size
    told = {name: value for name, value in finished.hashes.items() if name in ("md5", "sha256", "sha512")}
    if finished.source_sha256 is None:
        assert told, "a cloud that tells no hash is compared by what was sent"
    else:
        assert finished.source_sha256 == record.sha256
    assert told == {name: getattr(record, name) for name in told}
    assert harness.journal.kept == {finished.cloud_id: "present"}
    cloud.delete(finished.cloud_id, harness.ref.tags)


@pytest.mark.long
def test_image_of_an_earlier_attempt_is_found(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    uploaded = harness.connect().upload(record, harness.ref, transfer_of(file))
    later = harness.connect()
    found = later.find(harness.ref)
    assert found is not None
    assert (found.cloud_id, found.complete, size_told(found)) == (uploaded.cloud_id, True, record.size)
    assert (found.shown_id, found.source_sha256) == (uploaded.shown_id, uploaded.source_sha256)
    assert later.finish(later.finish(found, record), record) == found
    later.delete(found.cloud_id, harness.ref.tags)
    harness.journal.gone(found.cloud_id)
    assert harness.connect().find(harness.ref) is None


@pytest.mark.long
def test_upload_after_an_interrupted_one_leaves_one_image(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    with pytest.raises(Cancelled):
        harness.connect().upload(record, harness.ref, transfer_of(file, stop_at=1))
    later = harness.connect()
    found = later.find(harness.ref)
    assert found is None or not found.complete
    uploaded = later.upload(record, replace(harness.ref, found=found), transfer_of(file))
    assert uploaded.complete
    assert harness.left() == {uploaded.cloud_id}
    again = harness.connect().find(harness.ref)
    assert again is not None
    assert again.cloud_id == uploaded.cloud_id
    later.delete(uploaded.cloud_id, harness.ref.tags)


@pytest.mark.long
def test_nothing_is_created_before_it_is_in_the_journal(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    harness.journal.planning_fails = True
    with pytest.raises(Cancelled):
        harness.connect().upload(record, harness.ref, transfer_of(file))
    harness.journal.planning_fails = False
    assert harness.connect().find(harness.ref) is None


@pytest.mark.long
def test_deletion_is_repeatable(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    cloud = harness.connect()
    uploaded = cloud.upload(record, harness.ref, transfer_of(file))
    cloud.delete(uploaded.cloud_id, harness.ref.tags)
    cloud.delete(uploaded.cloud_id, harness.ref.tags)
    cloud.delete(str(uuid.uuid4()), harness.ref.tags)
    harness.journal.gone(uploaded.cloud_id)
    assert cloud.find(harness.ref) is None


def test_wrong_password_is_a_permanent_error_that_hides_it(harness: Harness) -> None:
    with pytest.raises(PermanentCloudError) as refused:
        harness.connect(password="wrong")
    assert "password" in str(refused.value), "it says what to check"
    assert "wrong" not in str(refused.value)


@pytest.mark.long
def test_plugin_lists_the_images_of_one_installation(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    harness.ref = replace(harness.ref, tags=Tags(harness.ref.tags.ticket_uid, str(uuid.uuid4())))
    cloud = harness.connect()
    assert list(cloud.tagged(harness.ref.tags.deployment)) == []
    whole = cloud.upload(record, harness.ref, transfer_of(file))
    first, deployment = harness.ref.tags, harness.ref.tags.deployment
    harness.new_ticket()
    harness.ref = replace(harness.ref, tags=Tags(harness.ref.tags.ticket_uid, deployment))
    with pytest.raises(Cancelled):
        harness.connect().upload(record, harness.ref, transfer_of(file, stop_at=1))
    (half,) = harness.left()
    found = {each.cloud_id: each for each in cloud.tagged(deployment)}
    assert {each.cloud_id: each.ticket_uid for each in found.values()} == {
        whole.cloud_id: first.ticket_uid,
        half: harness.ref.tags.ticket_uid,
    }
    assert all(each.age_seconds is not None and 0 <= each.age_seconds < 120 * PATIENCE for each in found.values())
    assert list(cloud.tagged(str(uuid.uuid4()))) == []
    for tags, cloud_id in ((first, whole.cloud_id), (harness.ref.tags, half)):
        assert [(each.cloud_id, each.ticket_uid) for each in cloud.tagged_by(tags)] == [(cloud_id, tags.ticket_uid)]
    assert list(cloud.tagged_by(Tags(str(uuid.uuid4()), deployment))) == []
    for cloud_id in found:
        cloud.delete(cloud_id, harness.ref.tags)
    assert list(cloud.tagged(deployment)) == []
    assert list(cloud.tagged_by(first)) == []


@pytest.mark.long
def test_each_ticket_has_an_image_of_its_own(harness: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    cloud = harness.connect()
    first = cloud.upload(record, harness.ref, transfer_of(file))
    earlier = harness.ref
    harness.new_ticket()
    other = harness.connect()
    assert other.find(harness.ref) is None
    second = other.upload(record, harness.ref, transfer_of(file))
    assert first.cloud_id != second.cloud_id
    found = harness.connect().find(replace(earlier))
    assert found is not None
    assert found.cloud_id == first.cloud_id
    for each in (first, second):
        other.delete(each.cloud_id, harness.ref.tags)


# OpenStack only ---------------------------------------------------------------------------------------------------


@pytest.fixture
def openstack(devcloud: DevCloud) -> Iterator[Harness]:
    with keystone_v3(devcloud) as harness:
        yield harness


@pytest.mark.real
@pytest.mark.long
def test_name_of_the_tickets_own_image_is_not_taken(openstack: Harness, image: tuple[Image, Path]) -> None:
    record, file = image
    openstack.target = replace(openstack.target, fields=openstack.target.fields | {"ifNameTaken": "refuse"})
    openstack.connect().check(record)
    uploaded = openstack.connect().upload(record, openstack.ref, transfer_of(file))
    later = openstack.connect()
    later.find(openstack.ref)
    later.check(record)
    other = openstack.connect()
    with pytest.raises(InvalidRequest, match="displayName"):
        other.check(record)
    other.delete(uploaded.cloud_id, openstack.ref.tags)
    other.check(record)


@pytest.mark.real
def test_late_creation_after_a_deletion_is_refused(openstack: Harness, devcloud: DevCloud) -> None:
    """The late request may come from a paused worker, or over a slow connection."""
    planned = str(uuid.uuid4())
    openstack.connect().delete(planned, openstack.ref.tags)
    with pytest.raises(urllib.error.HTTPError, match="409"):
        Glance(devcloud).rest("POST", "/v2/images", {"id": planned, "name": "late"})
    assert [image for image in Glance(devcloud).images() if image["id"] == planned] == []


@pytest.mark.real
def test_placeholder_that_cannot_be_deleted_is_found_by_its_tags(
    openstack: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion creates a placeholder to use up an id that no image has. Glance may fail in between."""
    planned, cloud = str(uuid.uuid4()), openstack.connect()
    delete = GlanceImages.delete
    calls: list[str] = []

    def fails_at_the_second_call(images: GlanceImages, cloud_id: str) -> bool:
        calls.append(cloud_id)
        if len(calls) == 2:
            raise TransientCloudError("Glance does not answer")
        return delete(images, cloud_id)

    monkeypatch.setattr(GlanceImages, "delete", fails_at_the_second_call)
    with pytest.raises(TransientCloudError):
        cloud.delete(planned, openstack.ref.tags)
    left = {each.cloud_id: each.ticket_uid for each in cloud.tagged(openstack.ref.tags.deployment)}
    assert left == {planned: openstack.ref.tags.ticket_uid}
    cloud.delete(planned, openstack.ref.tags)
    assert list(cloud.tagged(openstack.ref.tags.deployment)) == []


@contextmanager
def half_deleted(cloud: DevCloud, image_id: str) -> Iterator[None]:
    """Leave the image's record as a Glance does that is killed in the middle of a deletion. Restore it afterwards."""
    with closing(sqlite3.connect(cloud.directory / "glance" / "database.sqlite", isolation_level=None)) as database:
        database.execute("UPDATE images SET status = 'deleted' WHERE id = ?", (image_id,))
        try:
            yield
        finally:
            database.execute("UPDATE images SET status = 'active' WHERE id = ?", (image_id,))


@pytest.mark.own_cloud
@pytest.mark.real
def test_image_that_glance_stopped_deleting_counts_as_deleted(
    openstack: Harness, devcloud: DevCloud, image: tuple[Image, Path]
) -> None:
    record, file = image
    uploaded = openstack.connect().upload(record, openstack.ref, transfer_of(file))
    with half_deleted(devcloud, uploaded.cloud_id):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            Glance(devcloud).delete(uploaded.cloud_id)
        openstack.connect().delete(uploaded.cloud_id, openstack.ref.tags)
    openstack.connect().delete(uploaded.cloud_id, openstack.ref.tags)
    assert Glance(devcloud).images() == []


@pytest.mark.real
def test_copy_that_a_user_made_in_the_cloud_is_left_alone(
    openstack: Harness, devcloud: DevCloud, image: tuple[Image, Path]
) -> None:
    """Cinder can create an image from a volume. It gets all properties of the image that the volume was made from."""
    record, file = image
    glance = Glance(devcloud)
    uploaded = openstack.connect().upload(record, openstack.ref, transfer_of(file))
    original = glance.rest("GET", f"/v2/images/{uploaded.cloud_id}")
    tags = {name: value for name, value in original.items() if name.startswith("publisher_")}
    copy = glance.rest("POST", "/v2/images", {"name": "mine", "disk_format": "raw", "container_format": "bare", **tags})
    openstack.journal.kept.clear()  # as after a restore from a backup
    found = openstack.connect().find(openstack.ref)
    assert found is not None
    assert found.cloud_id == uploaded.cloud_id
    assert openstack.left() == {uploaded.cloud_id}
    assert [each.cloud_id for each in openstack.connect().tagged("tests")] == [uploaded.cloud_id]
    openstack.connect().delete(uploaded.cloud_id, openstack.ref.tags)
    openstack.new_ticket()
    assert {each["id"] for each in glance.images()} == {copy["id"]}


@pytest.mark.real
def test_record_of_an_earlier_revision_is_replaced_and_not_filled(
    openstack: Harness, devcloud: DevCloud, image: tuple[Image, Path]
) -> None:
    record, file = image
    stale = openstack.connect()
    left = stale._create(replace(record, sha256="0" * 64, disk_format="vmdk"), openstack.ref)  # type: ignore[attr-defined]
    cloud = openstack.connect()
    found = cloud.find(openstack.ref)
    assert found is not None
    assert (found.cloud_id, found.complete) == (left, False)
    uploaded = cloud.upload(record, replace(openstack.ref, found=found), transfer_of(file))
    assert openstack.journal.kept == {left: "gone", uploaded.cloud_id: "present"}
    (there,) = Glance(devcloud).images()
    assert (there["id"], there["disk_format"], there["publisher_sha256"]) == (uploaded.cloud_id, "raw", record.sha256)


@pytest.mark.real
def test_image_that_a_lagging_node_does_not_know_is_deleted(
    openstack: Harness, devcloud: DevCloud, image: tuple[Image, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that lags behind answers that the image does not exist."""
    record, file = image
    first = openstack.connect().upload(record, openstack.ref, transfer_of(file))
    with monkeypatch.context() as patched:
        patched.setattr(GlanceImages, "list", lambda self, filters: [])
        patched.setattr(GlanceImages, "get", lambda self, cloud_id: None)
        cloud = openstack.connect()
        assert cloud.find(openstack.ref) is None
    second = cloud.upload(record, openstack.ref, transfer_of(file))
    assert openstack.journal.kept == {first.cloud_id: "gone", second.cloud_id: "present"}
    assert [each["id"] for each in Glance(devcloud).images()] == [second.cloud_id]
