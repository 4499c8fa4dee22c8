"""A plugin can do what its platform offers to do with older images of a lineage: to the right image, and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from publisher.core.errors import PermanentCloudError
from publisher.core.image import Image
from publisher.platforms.platform import installed, platform_of
from tests.contract.harness import Harness
from workers.clouds import plugin
from workers.clouds.base import CloudPublisher, Tags

NAME = "contract 2026-01-02"
CHANGES: dict[str, Callable[[CloudPublisher, str, Tags], None]] = {
    "hide": lambda cloud, cloud_id, tags: cloud.hide(cloud_id, tags),
    "rename": lambda cloud, cloud_id, tags: cloud.rename(cloud_id, tags, NAME),
}
AFTERWARDS: dict[str, dict[str, object]] = {"hide": {"hidden": True}, "rename": {"name": NAME}}


@pytest.mark.parametrize("platform", installed())
def test_a_plugin_can_do_what_its_platform_offers(platform: str) -> None:
    can = {name for name in CHANGES if getattr(plugin(platform), name) is not getattr(CloudPublisher, name)}
    assert platform_of(platform).older == can


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_older_image_is_changed_and_the_newer_one_stays(
    harness: Harness, small: tuple[Image, Path], change: str
) -> None:
    if change not in harness.platform.older:
        return
    older, tags = harness.publish(small).cloud_id, harness.ref.tags
    harness.new_ticket()
    newer = harness.publish(small).cloud_id
    before = dict(harness.attributes(newer))
    cloud = harness.connect()
    for _ in range(2):  # a worker may be killed before it has noted the end
        CHANGES[change](cloud, older, tags)
    shown = harness.attributes(older)
    assert {name: shown[name] for name in AFTERWARDS[change]} == AFTERWARDS[change]
    assert harness.content(older)[: small[0].size] == small[1].read_bytes(), "it can still be used"
    assert dict(harness.attributes(newer)) == before
    assert cloud.in_use(older) is None
    cloud.delete(older, tags)
    harness.clean_up()


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_image_of_another_ticket_is_not_changed(harness: Harness, small: tuple[Image, Path], change: str) -> None:
    """Others hide the wrong image here (openstack-image-manager#1278)."""
    if change not in harness.platform.older:
        return
    published = harness.publish(small).cloud_id
    before = dict(harness.attributes(published))
    with pytest.raises(PermanentCloudError):
        CHANGES[change](harness.connect(), published, Tags("another ticket", harness.ref.tags.deployment))
    assert dict(harness.attributes(published)) == before
    harness.clean_up()


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_image_that_is_gone_is_no_error(harness: Harness, small: tuple[Image, Path], change: str) -> None:
    if change not in harness.platform.older:
        return
    published = harness.publish(small).cloud_id
    harness.clean_up()
    cloud = harness.connect()
    CHANGES[change](cloud, published, harness.ref.tags)
    assert cloud.in_use(published) is None
    assert harness.tagged() == set()


@pytest.mark.long
def test_protected_image_is_in_use(harness: Harness, small: tuple[Image, Path]) -> None:
    if not harness.platform.older or "protected" not in harness.platform.attributes:
        return
    harness.want(protected=True)
    published = harness.publish(small).cloud_id
    assert harness.connect().in_use(published)
    harness.clean_up()
