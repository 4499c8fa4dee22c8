"""Image attributes and name templates over HTTP: accepted in XML and JSON, shown in JSON, refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from publisher.core.ticket import State
from tests.service import ACCOUNT, JSON, SECRET, XML, Service, document, json_body, ticket_path, xml_body

ATTRIBUTES: dict[str, Any] = {
    "properties": {"property": [{"name": "os_distro", "value": "debian"}, {"name": "hw/bus~x", "value": "a=b <&>"}]},
    "tags": {"tag": ["golden", "wéb"]},
    "hidden": True,
    "sharedWith": {"project": ["lab"]},
    "minDisk": 20,
    "minRam": 512,
    "protected": False,
    "visibility": "shared",
}
KEPT = {
    "properties": ATTRIBUTES["properties"]["property"],
    "tags": ["golden", "wéb"],
    "sharedWith": ["lab"],
    **{name: ATTRIBUTES[name] for name in ("hidden", "minDisk", "minRam", "protected", "visibility")},
}
PATH = "users/alice/appliances/14/images/21/pimages"


def xml_with_attributes() -> str:
    plain: dict[str, Any] = {name: value for name, value in KEPT.items() if not isinstance(value, list)}
    return xml_body(
        None,
        properties=b"<property><name>os_distro</name><value>debian</value></property>"
        b"<property><value>a=b &lt;&amp;&gt;</value><name>hw/bus~x</name></property>",
        tags="<tag>golden</tag><tag>w\u00e9b</tag>".encode(),
        sharedWith=b"<project>lab</project>",
        **plain,
    )


@pytest.mark.parametrize("form", [XML, JSON])
def test_attributes_are_kept_with_the_ticket_and_shown_in_json_only(fresh: Service, form: str) -> None:
    body = xml_with_attributes() if form == XML else json_body(None, **ATTRIBUTES)
    answer = fresh.post(PATH, body, content_type=form, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    ticket = fresh.ticket(answer.json["dbId"])
    assert {name: ticket.target[name] for name in KEPT} == KEPT
    for shown in (answer.json, fresh.get(ticket_path(ticket), login="alice", accept=JSON).json):
        assert {name: shown[name] for name in ATTRIBUTES} == ATTRIBUTES
    in_xml = fresh.get(ticket_path(ticket), login="alice", accept=XML).body
    assert not [name for name in (*ATTRIBUTES, "property", "golden") if name.encode() in in_xml]


def test_an_xml_answer_to_a_request_with_attributes_is_that_of_a_request_without(fresh: Service) -> None:
    def answer(**changes: Any) -> set[str]:
        sent = json_body(None, **changes)
        made = fresh.post(PATH, sent, content_type=JSON, login="alice", accept=XML)
        assert made.status == 201, made.body
        return {str(element.tag) for element in made.xml.iter()}

    assert answer(**ATTRIBUTES) == answer()


def test_empty_lists_are_no_attributes(fresh: Service) -> None:
    ticket = fresh.publish(xml_body(None, tags=b"", properties=b"", regions=b""))
    assert not {"tags", "properties", "regions"} & set(ticket.target)


def test_a_retry_keeps_the_attributes_and_the_name(fresh: Service) -> None:
    body = xml_body(None, displayName=None, nameTemplate="{name} {date}", tags=b"<tag>a</tag>", protected=True)
    ticket = fresh.publish(body)
    fresh.store.leases.failed(fresh.claim(ticket), error="no room")
    answer = fresh.post(f"{ticket_path(ticket)}/retry", b"", content_type=None, login="alice", accept=JSON)
    assert (answer.status, answer.json["tags"], answer.json["protected"]) == (201, {"tag": ["a"]}, True)
    again = fresh.ticket(ticket.id)
    assert (again.state, again.name, again.target) == (State.QUEUED, ticket.name, ticket.target)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": {"region": ["west"]}}, "regions: 'openstack' takes no 'regions'"),
        ({"properties": {"property": [{"name": "owner", "value": "x"}]}}, "properties[0].name: 'owner' is"),
        ({"properties": {"property": [{"name": "publisher_x", "value": "x"}]}}, "properties[0].name: 'publisher_x' is"),
        ({"properties": {"property": [{"name": "os_hidden", "value": "x"}]}}, "properties[0].name: 'os_hidden' is"),
        ({"properties": {"property": [{"name": "backend", "value": "x"}]}}, "properties[0].name: 'backend' is"),
        (
            {"properties": {"property": [{"name": f"p{number}", "value": "x"} for number in range(300)]}},
            "properties: has 300 items; Glance takes at most 120",
        ),
        (
            {"properties": {"property": [{"name": "a", "value": "x" * 4097}]}},
            "properties[0].value: 4097 characters are",
        ),
        ({"properties": {"property": [{"name": "a"}]}}, "properties[0].value: is needed"),
        ({"properties": {"property": ["a"]}}, "properties[0]: an object is expected, not a string"),
        ({"properties": {"a": "b", "property": {"c": "d"}}}, "properties.property: an array is expected"),
        ({"tags": ["a"]}, "tags: an object is expected, not an array"),
        ({"tags": {"tag": [1]}}, "tags[0]: a string is expected, not a number"),
        ({"tags": {"tag": ["x" * 256]}}, "tags[0]: 256 characters are too many; at most 255 are accepted"),
        ({"hidden": "yes"}, "hidden: true or false is expected"),
        ({"minDisk": -1}, "minDisk: '-1' is not a number from 0 to"),
        ({"minDisk": 2**31}, "minDisk: '2147483648' is not a number from 0 to"),
        ({"visibility": "secret"}, "visibility: 'secret' is unknown"),
        ({"visibility": "public", "publicImage": False}, "visibility: 'public' contradicts publicImage"),
        ({"publicImage": True, "sharedWith": {"project": ["a"]}}, "sharedWith: cannot be used with a public image"),
        ({"nameTemplate": "{name}"}, "nameTemplate: cannot be used together with displayName"),
        ({"nameTemplate": "{day}", "displayName": None}, "nameTemplate: '{day}' is unknown; use {name}"),
        ({"account__nameTemplate": "{day}"}, "credAccount.nameTemplate: '{day}' is unknown"),
    ],
)
def test_wrong_attributes_get_a_400_that_names_the_element(
    service: Service, changes: dict[str, Any], words: str
) -> None:
    before = service.store.publications.counts()
    answer = service.post(PATH, json_body(None, **changes), content_type=JSON, login="alice")
    assert answer.status == 400, answer.body
    assert answer.problem().startswith(words)
    assert service.store.publications.counts() == before


def test_a_stored_account_has_a_name_template(fresh: Service) -> None:
    stored = ACCOUNT | {"name": "production", "nameTemplate": "{name}-{id}-{revision}-{appliance}-{version}"}
    created = fresh.post("users/alice/accounts", json.dumps(stored), content_type=JSON, login="alice", accept=JSON)
    assert (created.status, created.json["nameTemplate"]) == (201, stored["nameTemplate"])
    uri = created.json["uri"]
    assert b"nameTemplate" not in fresh.get(uri, login="alice", accept=XML).body
    sent = document(None, displayName=None, credAccount={"uri": uri})
    answer = fresh.post(PATH, json.dumps(sent), content_type=JSON, login="alice", accept=JSON)
    ticket = fresh.ticket(answer.json["dbId"])
    appliance = fresh.store.appliances.get("alice", 14)
    image = fresh.store.images.get(21)
    assert image is not None
    assert ticket.name == f"{image.name}-21-{image.revision}-{appliance.name}-{appliance.version}"
    wrong = json.dumps({"nameTemplate": "{day}"})
    changed = fresh.call("PUT", uri, body=wrong.encode(), content_type=JSON, login="alice")
    assert changed.status == 400
    assert changed.problem().startswith("nameTemplate: '{day}' is unknown")
    assert SECRET not in str(ticket.account)
