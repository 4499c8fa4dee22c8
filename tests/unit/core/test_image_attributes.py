"""Image attributes: what a request may give an image in the cloud."""

from __future__ import annotations

from typing import Any

import pytest

from publisher.core.errors import InvalidRequest
from publisher.core.image_attributes import ATTRIBUTES, check_min_disk
from publisher.platforms.openstack import OPENSTACK
from publisher.platforms.platform import IMAGE_ATTRIBUTES, Platform, platform_of

ALL: dict[str, Any] = {
    "properties": [{"name": "hw_disk_bus", "value": "virtio"}, {"name": "os_distro", "value": "debian"}],
    "tags": ["golden", "web"],
    "hidden": True,
    "sharedWith": ["lab"],
    "minDisk": 20,
    "minRam": 512,
    "protected": True,
    "visibility": "shared",
}


def properties(*names: str) -> dict[str, Any]:
    return {"properties": [{"name": name, "value": "x"} for name in names]}


def fault(target: dict[str, Any], platform: Platform = OPENSTACK) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        platform.check_target({"login": "me"}, target)
    return refused.value


def test_every_attribute_has_an_element() -> None:
    assert tuple(field.name for field in IMAGE_ATTRIBUTES) == ATTRIBUTES


def test_openstack_takes_all_but_regions() -> None:
    OPENSTACK.check_target({"login": "me"}, ALL)
    OPENSTACK.check_target({"login": "me"}, {"publicImage": False, **ALL})
    assert {field.name for field in OPENSTACK.attribute_fields} == set(ALL)


def test_other_attributes_are_refused_by_name() -> None:
    refused = fault({"regions": ["west"]})
    assert refused.field == "regions"
    assert str(refused).startswith("regions: 'openstack' takes no 'regions'; it takes properties, tags, hidden")
    for name, value in ALL.items():
        refused = fault({name: value}, platform_of("memory"))
        assert str(refused) == f"{name}: 'memory' takes no '{name}'; it takes no image attributes"


def test_empty_lists_are_no_attributes() -> None:
    platform_of("memory").check_target({}, {"tags": [], "properties": [], "hidden": None})


@pytest.mark.parametrize(
    "name",
    ["os_hidden", "os_glance_import_task", "os_anything", "OS_HIDDEN", "owner", "Owner", "publisher_ticket", "id",
     "status", "checksum", "visibility", "min_disk", "tags", "locations", "deleted", "image_type", "base_image_ref",
     "self", "backend", "file", "schema", "direct_url", "stores", "PUBLISHER_x", "os_glance_x"],
)  # fmt: skip
def test_reserved_properties_are_refused(name: str) -> None:
    refused = fault(properties("mine", name))
    assert refused.field == "properties[1].name"
    assert f"'{name}' is reserved" in str(refused)


def test_properties_that_openstack_defines_for_users_are_accepted() -> None:
    OPENSTACK.check_target(
        {"login": "me"}, properties("os_type", "os_distro", "os_version", "os_require_quiesce", "architecture")
    )


@pytest.mark.parametrize(
    ("target", "field", "words"),
    [
        (properties(*(f"p{number}" for number in range(300))), "properties", "has 300 items; Glance takes at most 120"),
        ({"tags": [f"t{number}" for number in range(129)]}, "tags", "has 129 items"),
        ({"sharedWith": [f"p{number}" for number in range(129)]}, "sharedWith", "has 129 items"),
        (properties("a", "A"), "properties[1].name", "'A' is given more than once"),
        ({"tags": ["a", "b", "a"]}, "tags[2]", "'a' is given more than once"),
        ({"sharedWith": ["a", "a"]}, "sharedWith[1]", "'a' is given more than once"),
        (properties("x" * 256), "properties[0].name", "has 1 to 255 characters, not 256"),
        (properties("a\nb"), "properties[0].name", "has a line break"),
        (properties("\N{GRINNING FACE}"), "properties[0].name", "has the character U+1F600"),
        ({"properties": [{"name": "a", "value": "\N{GRINNING FACE}"}]}, "properties[0].value", "U+1F600"),
        ({"properties": [{"name": "a", "value": "x" * 4097}]}, "properties[0].value", "is longer than 4096"),
        ({"properties": [{"name": "a", "value": "x\ny"}]}, "properties[0].value", "has a line break"),
        ({"properties": [{"name": "a"}]}, "properties[0].value", "is needed"),
        ({"properties": [{"value": "a"}]}, "properties[0].name", "is needed"),
        ({"tags": ["x" * 256]}, "tags[0]", "has 1 to 255 characters, not 256"),
        ({"tags": ["\N{GRINNING FACE}"]}, "tags[0]", "U+1F600"),
        ({"tags": [" a"]}, "tags[0]", "has a blank"),
        ({"minRam": -1}, "minRam", "must not be negative"),
        ({"visibility": "secret"}, "visibility", "'secret' is unknown; use one of private, shared, community, public"),
        ({"visibility": "private", "publicImage": True}, "visibility", "contradicts publicImage, which is true"),
        ({"visibility": "public", "publicImage": False}, "visibility", "contradicts publicImage, which is false"),
        ({"publicImage": True, "sharedWith": ["a"]}, "sharedWith", "cannot be used with a public image"),
        ({"visibility": "public", "sharedWith": ["a"]}, "sharedWith", "cannot be used with a public image"),
        ({"visibility": "community", "sharedWith": ["a"]}, "sharedWith", "cannot be used with a community image"),
        ({"visibility": "private", "sharedWith": ["a"]}, "sharedWith", "cannot be used with a private image"),
        ({"nameTemplate": "{day}"}, "nameTemplate", "'{day}' is unknown"),
        ({"nameTemplate": "{name}", "displayName": "a"}, "nameTemplate", "cannot be used together with displayName"),
    ],
)
def test_wrong_values_and_contradictions_name_their_element(target: dict[str, Any], field: str, words: str) -> None:
    refused = fault(target)
    assert refused.field == field
    assert words in str(refused)


def test_public_image_may_repeat_the_visibility() -> None:
    OPENSTACK.check_target({"login": "me"}, {"visibility": "public", "publicImage": True})
    OPENSTACK.check_target({"login": "me"}, {"visibility": "community", "publicImage": False})


def test_min_disk_is_at_least_what_the_image_needs() -> None:
    check_min_disk({}, 20)
    check_min_disk({"minDisk": 20}, 20)
    with pytest.raises(InvalidRequest, match=r"minDisk: 19 GiB are too little: .* give at least 20"):
        check_min_disk({"minDisk": 19}, 20)


def test_the_template_of_an_account_is_checked_with_the_account() -> None:
    account = {"keystoneUrl": "https://cloud.example.com", "login": "me"}
    OPENSTACK.check_account(account | {"nameTemplate": "{name} {date}"}, {"password"})
    with pytest.raises(InvalidRequest, match=r"credAccount.nameTemplate: '\{day\}' is unknown"):
        OPENSTACK.check_account(account | {"nameTemplate": "{day}"}, {"password"})


def test_a_name_template_makes_no_other_account() -> None:
    for platform in (OPENSTACK, platform_of("memory")):
        account = {"keystoneUrl": "https://cloud.example.com", "login": "me"}
        assert platform.identity(account, {}) == platform.identity(account | {"nameTemplate": "{name}"}, {})
