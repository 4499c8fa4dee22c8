"""Every plugin takes an image back out of its cloud, and shows that nothing is left."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from publisher.core.errors import PermanentCloudError
from publisher.core.image import Image
from tests.contract.harness import Harness
from workers.clouds.base import CloudPublisher, Tags

pytestmark = pytest.mark.long


def listed(cloud: CloudPublisher, tags: Tags) -> set[str]:
    return {each.cloud_id for each in cloud.tagged_by(tags)}


def test_withdrawn_image_is_gone_and_others_stay(harness: Harness, small: tuple[Image, Path]) -> None:
    deployment = str(uuid.uuid4())
    harness.new_ticket(deployment)
    kept, kept_tags = harness.publish(small), harness.ref.tags
    harness.new_ticket(deployment)
    withdrawn, tags = harness.publish(small), harness.ref.tags
    cloud = harness.connect()
    assert listed(cloud, tags) == {withdrawn.cloud_id}
    for _ in range(2):  # the request may be doubled, and the worker killed before it has noted the end
        cloud.delete(withdrawn.cloud_id, tags)
        assert listed(cloud, tags) == set()
    assert harness.tagged() == {kept.cloud_id}
    assert listed(harness.connect(), kept_tags) == {kept.cloud_id}
    assert harness.content(kept.cloud_id)[: small[0].size] == small[1].read_bytes()
    cloud.delete(kept.cloud_id, kept_tags)
    assert harness.tagged() == set()


def test_withdrawn_image_does_not_come_back(harness: Harness, small: tuple[Image, Path]) -> None:
    """A later attempt of another worker must not find it, nor publish into what is left of it."""
    published = harness.publish(small)
    harness.clean_up()
    assert harness.connect().find(harness.ref) is None
    again = harness.publish(small)
    assert again.cloud_id != published.cloud_id
    assert harness.journal.kept == {published.cloud_id: "gone", again.cloud_id: "present"}
    harness.clean_up()


def test_hidden_image_is_found_for_its_withdrawal(harness: Harness, small: tuple[Image, Path]) -> None:
    if "hidden" not in harness.platform.attributes:
        return
    harness.want(hidden=True)
    harness.new_ticket(str(uuid.uuid4()))
    published = harness.publish(small)
    cloud = harness.connect()
    assert listed(cloud, harness.ref.tags) == {published.cloud_id}
    cloud.delete(published.cloud_id, harness.ref.tags)
    assert listed(cloud, harness.ref.tags) == set()


def test_protected_image_stays_as_it_is_until_it_is_released(harness: Harness, small: tuple[Image, Path]) -> None:
    if "protected" not in harness.platform.attributes:
        return
    harness.want(protected=True)
    published, tags = harness.publish(small), harness.ref.tags
    cloud = harness.connect()
    with pytest.raises(PermanentCloudError):
        cloud.delete(published.cloud_id, tags)
    assert listed(cloud, tags) == {published.cloud_id}
    assert harness.content(published.cloud_id)[: small[0].size] == small[1].read_bytes()
    for _ in range(2):
        cloud.release(published.cloud_id, tags)
    cloud.delete(published.cloud_id, tags)
    assert listed(cloud, tags) == set()


def test_protection_of_another_ticket_is_not_lifted(harness: Harness, small: tuple[Image, Path]) -> None:
    if "protected" not in harness.platform.attributes:
        return
    harness.want(protected=True)
    published, tags = harness.publish(small), harness.ref.tags
    cloud = harness.connect()
    cloud.release(published.cloud_id, Tags("another ticket", tags.deployment))
    assert harness.attributes(published.cloud_id)["protected"] is True
    harness.clean_up()
