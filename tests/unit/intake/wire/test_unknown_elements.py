"""Elements of a body that the schema does not have: which are reported, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from publisher.intake.wire.reading import MAX_ELEMENTS, parse_json, parse_xml
from publisher.intake.wire.schema import NAMESPACE, TYPES, XSI
from publisher.intake.wire.unknown_elements import REPORTED_MAX, UNUSED, UnknownElements

DATA = Path(__file__).parents[3] / "data"
ROOT = f'xmlns:n="{NAMESPACE}" xmlns:xsi="{XSI}"'
IN_IMAGE = "PublishImageOpenStack has no such element"
IN_ACCOUNT = "CredAccountOpenStack has no such element"


def markup(value: object) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{markup(each)}</{name}>" for name, each in value.items())
    return "".join(map(markup, value)) if isinstance(value, list) else str(value)


def in_json(members: dict[str, Any], root: str = "publishImage", type_name: str = "PublishImageOpenStack") -> list[str]:
    unknown = UnknownElements()
    parse_json(root, json.dumps({"@type": type_name, **members}).encode(), unknown=unknown)
    return unknown.warnings()


def in_xml(inner: str, root: str = "publishImage", type_name: str = "PublishImageOpenStack") -> list[str]:
    unknown = UnknownElements()
    parse_xml(f'<n:{root} {ROOT} xsi:type="n:{type_name}">{inner}</n:{root}>'.encode(), unknown=unknown)
    return unknown.warnings()


@pytest.mark.parametrize(
    ("members", "warnings"),
    [
        ({"displayName": "a", "credAccount": {"login": "b", "targetPlatform": {"name": "openstack"}}}, []),
        ({"displayname": "a"}, [f"displayname: {IN_IMAGE}; did you mean displayName?"]),
        ({"keystonProject": "a"}, [f"keystonProject: {IN_IMAGE}; did you mean keystoneProject?"]),
        ({"colour": "red"}, [f"colour: {IN_IMAGE}"]),
        (
            {"colour": {"keystoneUrl": "a", "shade": {}}},
            [f"colour: {IN_IMAGE}"],
        ),
        ({"keystoneUrl": "a"}, [f"keystoneUrl: {IN_IMAGE}; it belongs in credAccount"]),
        (
            {"credAccount": {"tenantName": "a", "keystonUrl": "b"}},
            [
                f"credAccount.tenantName: {IN_ACCOUNT}; it belongs in publishImage",
                f"credAccount.keystonUrl: {IN_ACCOUNT}; did you mean keystoneUrl?",
            ],
        ),
        (
            {"credAccount": {"targetPlatform": {"nmae": "openstack", "type": "openstack"}}},
            ["credAccount.targetPlatform.nmae: targetPlatform has no such element; did you mean name?"],
        ),
        ({"instance": {}}, [f"instance: {IN_IMAGE}; it belongs in instances"]),
        (
            {"instances": {"instanse": {}}},
            ["instances.instanse: instances has no such element; did you mean instance?"],
        ),
        # Another platform has it.
        ({"storageAccount": "a"}, [f"storageAccount: {IN_IMAGE}"]),
        # No name of the schema is as long.
        ({"displayName" * 9: "a"}, [f"{('displayName' * 9)[:80]}…: {IN_IMAGE}"]),
    ],
)
def test_unknown_elements_are_named_with_the_nearest_known_one(members: dict[str, Any], warnings: list[str]) -> None:
    assert in_json(members) == warnings
    assert in_xml(markup(members)) == warnings


def test_element_without_a_value_is_unknown_too() -> None:
    assert in_json({"colour": None}) == [f"colour: {IN_IMAGE}"]
    assert in_xml("<colour/><colour/>") == [f"colour: {IN_IMAGE}"]


def test_element_of_another_namespace_is_unknown() -> None:
    foreign = '<x:displayName xmlns:x="urn:x">a</x:displayName>'
    assert in_xml(foreign) == [f"{{urn:x}}displayName: {IN_IMAGE}; did you mean displayName?"]
    qualified = "<n:displayName>a</n:displayName><xsi:type/>"
    assert in_xml(qualified) == []


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "\x00", "a\u202eb", ""])
def test_name_that_cannot_be_shown_is_escaped(name: str) -> None:
    (warning,) = in_json({name: 1})
    assert warning.isprintable()
    assert warning.encode()


@pytest.mark.parametrize("type_name", UNUSED)
def test_elements_of_the_api_that_are_not_used_are_known(type_name: str) -> None:
    unused = dict.fromkeys(UNUSED[type_name], "")
    assert not set(unused) & set(TYPES[type_name].by_name)
    if type_name.startswith("PublishImage"):
        assert in_json(unused, type_name=type_name) == []
        return
    documents: dict[str, dict[str, Any]] = {
        "image": unused,
        "imageFormat": {"format": unused},
        "targetFormat": {"targetFormat": unused},
        "targetPlatform": {"credAccount": {"targetPlatform": unused}},
    }
    assert in_json(documents[type_name], root="image") == []


@pytest.mark.parametrize(
    "members", [{"installProfile": {"timezone": "a"}}, {"instances": {"instance": [{"cores": 1}]}}]
)
def test_parts_that_are_not_used_are_not_examined(members: dict[str, Any]) -> None:
    assert in_json(members) == []
    assert in_xml(markup(members)) == []


@pytest.mark.parametrize("example", ["publish-openstack-v2.xml", "publish-openstack-v3.xml"])
def test_examples_of_the_manual_have_no_unknown_elements(example: str) -> None:
    unknown = UnknownElements()
    parse_xml((DATA / example).read_bytes(), unknown=unknown)
    assert unknown.count == 0


def test_without_a_platform_an_image_may_have_the_elements_of_any() -> None:
    unknown = UnknownElements()
    parse_json("publishImage", b'{"displayName": "a", "bucket": "b", "status": {"colour": "red"}}', unknown=unknown)
    assert unknown.warnings() == ["status.colour: status has no such element"]


def test_account_that_is_looked_up_is_examined_once() -> None:
    unknown = UnknownElements()
    body = b'{"credAccount": {"name": "a", "targetPlatform": {"colour": "red"}}}'
    parse_json("publishImage", body, resolve=lambda _: None, unknown=unknown)
    assert unknown.count == 1


def test_body_that_is_read_twice_is_reported_once() -> None:
    unknown = UnknownElements()
    for _ in range(2):
        parse_json("credAccount", b'{"@type": "CredAccountOpenStack", "colour": "red"}', unknown=unknown)
    assert unknown.warnings() == [f"colour: {IN_ACCOUNT}"]


def test_error_names_the_first_and_counts_the_others() -> None:
    unknown = UnknownElements()
    parse_json("credAccount", b'{"@type": "CredAccountOpenStack", "logn": "a", "b": 1, "c": 2}', unknown=unknown)
    error = unknown.error()
    assert error.field == "logn"
    assert str(error) == f"logn: {IN_ACCOUNT}; did you mean login? (2 more unknown elements)"


@pytest.mark.parametrize("form", ["json", "xml"])
def test_thousands_of_unknown_elements_are_counted(form: str) -> None:
    count = MAX_ELEMENTS - 10
    members = {f"displayNames{number}": "" for number in range(count)}
    warnings = in_json(members) if form == "json" else in_xml(markup(members))
    assert len(warnings) == REPORTED_MAX + 1
    assert warnings[-1] == f"{count - REPORTED_MAX} more unknown elements"
    assert sum(map(len, warnings)) < 2000
