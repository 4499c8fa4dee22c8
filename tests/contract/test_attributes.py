"""Every plugin gives an image the attributes that its platform takes. The platform refuses the others by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import Cancelled, InvalidRequest, PermanentCloudError
from publisher.core.image import Image
from publisher.core.image_attributes import ATTRIBUTES, SHARED_WITH, VISIBILITIES
from tests.contract.harness import Harness, transfer_of

VALUES: Mapping[str, Any] = {
    "properties": [{"name": "os_distro", "value": "debian"}, {"name": "Note", "value": "ünïcode: 1, 2; 'three'"}],
    "tags": ["golden", "web server"],
    "regions": ["north"],
    "hidden": True,
    "sharedWith": [],
    "minDisk": 7,
    "minRam": 512,
    "protected": True,
    "visibility": "community",
}


def taken(harness: Harness, *left_out: str) -> dict[str, Any]:
    """Return a value for each attribute that the platform takes."""
    found = {name: VALUES[name] for name in ATTRIBUTES if name in harness.platform.attributes and name not in left_out}
    if SHARED_WITH in found:
        del found[SHARED_WITH]
        if harness.partner:
            found |= {SHARED_WITH: [harness.partner], "visibility": "shared"}
    return found


def check_shown(harness: Harness, cloud_id: str, wanted: Mapping[str, Any]) -> None:
    shown = harness.attributes(cloud_id)
    for name, value in wanted.items():
        if name == "properties":
            assert {each["name"]: shown[name].get(each["name"]) for each in value} == {
                each["name"]: each["value"] for each in value
            }
        elif isinstance(value, list):
            assert sorted(shown[name]) == sorted(value), name
        else:
            assert shown[name] == value, name


def test_each_attribute_has_an_example() -> None:
    assert set(VALUES) == set(ATTRIBUTES)


@pytest.mark.long
def test_image_has_the_attributes_that_the_platform_takes(harness: Harness, small: tuple[Image, Path]) -> None:
    wanted = taken(harness)
    harness.platform.check_target(harness.account.fields, harness.target.fields | wanted)
    harness.want(**wanted)
    published = harness.publish(small)
    check_shown(harness, published.cloud_id, wanted)
    later = harness.connect()
    found = later.find(harness.ref)
    assert found is not None
    assert (found.cloud_id, found.complete) == (published.cloud_id, True), "also if the image is hidden"
    later.finish(later.finish(found, small[0]), small[0])
    check_shown(harness, published.cloud_id, wanted)
    harness.clean_up()
    assert harness.tagged() == set()


@pytest.mark.long
@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_image_has_the_visibility_that_was_asked_for(
    harness: Harness, small: tuple[Image, Path], visibility: str
) -> None:
    """What this login may not have is refused. It is not replaced by another visibility."""
    if "visibility" not in harness.platform.attributes:
        check_refused_by_name(harness, "visibility", visibility)
        return
    harness.want(visibility=visibility)
    refusal, published = "", None
    try:
        published = harness.publish(small)
    except (InvalidRequest, PermanentCloudError) as refused:
        refusal = f"{getattr(refused, 'field', None)}: {refused}"
    if published:
        check_shown(harness, published.cloud_id, {"visibility": visibility})
    else:
        assert "visibility" in refusal
        assert visibility not in ("private", "shared"), "every account may have these"
    harness.clean_up()


@pytest.mark.long
def test_image_of_a_killed_attempt_gets_its_attributes(harness: Harness, image: tuple[Image, Path]) -> None:
    """One worker was killed during the transfer, the next one between the last byte and the end."""
    record, file = image
    wanted = taken(harness, "protected")
    harness.want(**wanted)
    with pytest.raises(Cancelled):
        harness.connect().upload(record, harness.ref, transfer_of(file, stop_at=1))
    later = harness.connect()
    later.upload(record, replace(harness.ref, found=later.find(harness.ref)), transfer_of(file))
    published = harness.publish(image)
    check_shown(harness, published.cloud_id, wanted)
    harness.clean_up()


def test_attribute_that_the_platform_does_not_take_is_refused_by_name(harness: Harness) -> None:
    for name in ATTRIBUTES:
        if name not in harness.platform.attributes:
            check_refused_by_name(harness, name, VALUES[name] or ["partner"])


def check_refused_by_name(harness: Harness, name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        harness.platform.check_target(harness.account.fields, {name: value})
    assert refused.value.field == name


# Sharing --------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_image_is_shared_once_and_with_nobody_else(harness: Harness, small: tuple[Image, Path]) -> None:
    if SHARED_WITH not in harness.platform.attributes:
        check_refused_by_name(harness, SHARED_WITH, ["partner"])
        return
    harness.want(sharedWith=[harness.partner or "partner"])
    if harness.partner is None:
        with pytest.raises((InvalidRequest, PermanentCloudError), match=SHARED_WITH):
            harness.publish(small)
        assert harness.journal.kept == {}, "it is refused before anything is created"
        return
    published = harness.publish(small)
    cloud = harness.connect()
    cloud.finish(cloud.finish(published, small[0]), small[0])
    check_shown(harness, published.cloud_id, {SHARED_WITH: [harness.partner], "visibility": "shared"})
    harness.clean_up()
