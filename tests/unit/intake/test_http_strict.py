"""Unknown elements of a request's body: warnings in JSON, and an error for a caller who prefers strict handling."""

from __future__ import annotations

import json
from typing import Any

import pytest

from publisher.core.errors import UnknownElement
from publisher.intake.openapi import resources
from publisher.intake.wire.schema import TYPES
from tests.service import ACCOUNT, JSON, XML, Answer, Service, json_body, xml_body

PATH = "users/alice/appliances/14/images/21/pimages"
STRICT = {"Prefer": "handling=strict"}
UNKNOWN = "keystonProject: PublishImageOpenStack has no such element; did you mean keystoneProject?"
MISPLACED = "credAccount.tenantName: CredAccountOpenStack has no such element; it belongs in publishImage"


def body(form: str, **changes: Any) -> str:
    return (json_body if form == JSON else xml_body)(None, **changes)


def post(
    service: Service, form: str, headers: dict[str, str] | None = None, *, accept: str = JSON, **changes: Any
) -> Answer:
    return service.post(PATH, body(form, **changes), content_type=form, accept=accept, login="alice", headers=headers)


@pytest.mark.parametrize("form", [JSON, XML])
def test_json_answer_warns_of_unknown_elements(service: Service, form: str) -> None:
    made = post(service, form, keystonProject="demo", account__tenantName="demo")
    assert made.status == 201
    assert made.json["warnings"] == {"warning": [UNKNOWN, MISPLACED]}
    assert "warnings" not in service.get(made.json["uri"], login="alice", accept=JSON).json
    assert "warnings" not in post(service, form).json


@pytest.mark.parametrize("form", [JSON, XML])
def test_xml_answer_does_not_change(service: Service, form: str) -> None:
    with_unknown = post(service, form, accept=XML, keystonProject="demo")
    without = post(service, form, accept=XML)
    assert with_unknown.status == without.status == 201
    assert [each.tag for each in with_unknown.xml.iter()] == [each.tag for each in without.xml.iter()]


@pytest.mark.parametrize("accept", [JSON, XML])
@pytest.mark.parametrize("form", [JSON, XML])
def test_strict_handling_refuses_unknown_elements(fresh: Service, form: str, accept: str) -> None:
    refused = post(fresh, form, STRICT, accept=accept, keystonProject="demo", account__tenantName="demo")
    assert refused.status == 400
    assert refused.problem() == f"{UNKNOWN} (1 more unknown element)"
    assert refused.headers["preference-applied"] == "handling=strict"
    assert not fresh.store.tickets.list()
    accepted = post(fresh, form, STRICT, accept=accept)
    assert accepted.status == 201
    assert accepted.headers["preference-applied"] == "handling=strict"
    assert "preference-applied" not in post(fresh, form, accept=accept).headers


def test_error_has_its_own_message_id(service: Service) -> None:
    refused = post(service, JSON, STRICT, keystonProject="demo")
    assert refused.json["localizedErrorMsg"]["messageId"] == UnknownElement.__name__


@pytest.mark.parametrize(
    ("prefer", "strict"),
    [
        ("handling=strict", True),
        ("Handling = Strict", True),
        ('handling="strict"', True),
        ("handling=strict; level=9", True),
        ('respond-async, wait=100, x="a,handling=lenient", handling=strict', True),
        ("handling=strict, handling=lenient", True),
        ("handling=lenient, handling=strict", False),
        ("handling=lenient", False),
        ("handling", False),
        ("strict", False),
        ('x="handling=strict', False),
        ("", False),
        ("=;=,,;" * 999, False),
    ],
)
def test_preference_is_read_as_its_rfc_says(service: Service, prefer: str, strict: bool) -> None:
    answer = post(service, JSON, {"Prefer": prefer}, keystonProject="demo")
    assert answer.status == (400 if strict else 201)
    assert ("preference-applied" in answer.headers) is strict


def test_repeated_request_gets_its_ticket_even_if_it_is_strict_now(fresh: Service) -> None:
    key = {"Idempotency-Key": "k"}
    first = post(fresh, JSON, key, keystonProject="demo")
    for headers in (key, key | STRICT):
        again = post(fresh, JSON, headers, keystonProject="demo")
        assert (again.status, again.json["dbId"]) == (201, first.json["dbId"])
        assert again.json["warnings"] == first.json["warnings"]
        assert "preference-applied" not in again.headers


def test_refused_request_does_not_use_up_its_key(fresh: Service) -> None:
    key = {"Idempotency-Key": "k"}
    assert post(fresh, JSON, key | STRICT, keystonProject="demo").status == 400
    assert post(fresh, JSON, key | STRICT).status == 201


def test_invalid_value_is_reported_before_an_unknown_element(service: Service) -> None:
    refused = post(service, JSON, STRICT, keystonProject="demo", publicImage="perhaps")
    assert refused.problem().startswith("publicImage: ")


WRITES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "an account": ("POST", "users/alice/accounts", {"@type": "CredAccountOpenStack", **ACCOUNT}, 201),
    "an API key": ("POST", "users/alice/apikeys", {"name": "a"}, 201),
    "a webhook": ("PUT", "users/alice/webhook", {"url": "https://hooks.example.com/"}, 200),
    "an image": ("POST", "users/alice/appliances/14/images", {"location": "disk.qcow2"}, 201),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_document_is_examined(fresh: Service, name: str) -> None:
    method, path, document, status = WRITES[name]
    fresh.settings.images.mkdir(exist_ok=True)
    (fresh.settings.images / "disk.qcow2").write_bytes(b"an image")

    def send(headers: dict[str, str], **unknown: str) -> Answer:
        made = json.dumps(document | unknown).encode()
        return fresh.call(method, path, body=made, content_type=JSON, accept=JSON, login="alice", headers=headers)

    refused = send(STRICT, colour="red")
    assert (refused.status, refused.problem().partition(":")[0]) == (400, "colour")
    accepted = send({}, colour="red")
    assert accepted.status == status, accepted.body
    (warning,) = accepted.json["warnings"]["warning"]
    assert warning.startswith("colour: ")


def test_account_may_be_sent_back_as_it_was_answered(fresh: Service) -> None:
    created = fresh.post(
        "users/alice/accounts",
        json.dumps({"@type": "CredAccountOpenStack", **ACCOUNT, "colour": "red"}),
        content_type=JSON,
        accept=JSON,
        login="alice",
    ).json
    assert "warnings" in created
    again = fresh.call(
        "PUT",
        created["uri"],
        body=json.dumps(created).encode(),
        content_type=JSON,
        accept=JSON,
        login="alice",
        headers=STRICT,
    )
    assert again.status == 200, again.body
    assert "warnings" not in again.json


def test_answer_to_every_document_can_warn(service: Service) -> None:
    with_body = [each for each in resources(service.app.routes) if each.operation.body]
    assert with_body
    for each in with_body:
        assert "warnings" in TYPES[each.operation.answer].by_name, f"{each.method} {each.path}"


@pytest.mark.parametrize("form", [JSON, XML])
def test_answer_to_a_hostile_body_is_short(service: Service, form: str) -> None:
    unknown: dict[str, Any] = {f"x{number}": "" for number in range(9_000)}
    made = post(service, form, **unknown)
    assert made.status == 201
    assert made.json["warnings"]["warning"][-1] == "8990 more unknown elements"
    assert len(made.body) < 10_000
