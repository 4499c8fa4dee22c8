"""Webhooks for one publication, and for all publications of a user."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.service import JSON, UFORGE, XML, Answer, Service, json_body, xml_body

ALICE = "users/alice/webhook"
PATH = "users/alice/appliances/14/images/21/pimages"
URL = "https://hooks.example.com/publications?key=of-the-query"


def put(service: Service, body: dict[str, Any], *, login: str = "alice") -> Answer:
    return service.call("PUT", ALICE, body=json.dumps(body).encode(), content_type=JSON, accept=JSON, login=login)


@pytest.mark.parametrize("form", [JSON, XML])
def test_webhook_of_a_request_is_used_and_never_shown(fresh: Service, form: str) -> None:
    write = json_body if form == JSON else xml_body
    assert put(fresh, {}).status == 200
    made = fresh.post(PATH, write(image=None, notify=URL), content_type=form, accept=JSON, login="alice")
    assert made.status == 201, made.body
    for accept in (JSON, XML):
        for path in (made.json["uri"], made.json["statusUri"], "users/alice/pimages"):
            assert b"hooks.example.com" not in fresh.get(path, login="alice", accept=accept).body
    ticket = fresh.ticket(made.json["dbId"])
    fresh.store.leases.failed(fresh.claim(ticket), error="no such project")
    (told,) = fresh.store.notifications.list(ticket.id)
    assert (told.url, told.event) == (URL, "publication.failed")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hooks.example.com", "must be an address such as"),
        ("ftp://hooks.example.com", "must be an address such as"),
        ("https://me:secret@hooks.example.com", "must not hold a login or password"),
        ("http://[::1/", "is not a valid address"),
        ("http://127.0.0.1:5432/", "'127.0.0.1' is a loopback address"),
        ("http://localhost:5432/", "'localhost' resolves to a loopback address"),
        ("http://169.254.169.254/", "'169.254.169.254' is a metadata address"),
    ],
)
def test_invalid_webhook_address_is_refused(start: Callable[..., Service], url: str, words: str) -> None:
    service = start(production=True, outbound_allow="127.0.0.2")
    body = json_body(image=None, account__keystoneUrl="http://127.0.0.2", account__glanceUrl=None, notify=url)
    assert put(service, {}).status == 200
    answer = service.post(PATH, body, content_type=JSON, login="alice")
    assert answer.status == 400
    assert answer.problem().startswith(f"notify: {words}")
    answer = put(service, {"url": url})
    assert answer.status == 400
    assert answer.problem().startswith(f"url: {words}")
    assert service.store.tickets.list() == []
    assert service.store.users.notify("alice").url is None


def test_webhook_without_a_secret_is_refused(fresh: Service) -> None:
    answer = fresh.post(PATH, json_body(image=None, notify=URL), content_type=JSON, login="alice")
    assert answer.status == 400
    assert answer.problem() == (
        "notify: needs a secret to sign notifications with, and 'alice' has none; create one by PUT"
        " users/alice/webhook, or run: publisher users notify"
    )
    assert fresh.store.tickets.list() == []


def test_webhook_of_a_user_is_stored_used_and_deleted(fresh: Service) -> None:
    assert fresh.get(ALICE, login="alice").status == 404
    made = put(fresh, {"url": URL})
    assert made.status == 200
    assert made.headers["cache-control"] == "no-store"
    secret = made.json["secret"]
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert made.json == {"url": URL, "secret": secret, "uri": ALICE}
    for answer in (put(fresh, {"url": f"{URL}2"}), put(fresh, {}), fresh.get(ALICE, login="alice", accept=JSON)):
        assert answer.json == {"url": f"{URL}2", "uri": ALICE}
    sealed = fresh.store.users.notify("alice").sealed_secret
    assert sealed
    assert secret.encode() not in sealed
    ticket = fresh.publish()
    fresh.store.tickets.request_cancel(ticket.id)
    assert [told.url for told in fresh.store.notifications.list(ticket.id)] == [f"{URL}2"]
    assert fresh.call("DELETE", ALICE, login="alice").status == 204
    assert fresh.get(ALICE, login="alice").status == 404
    other = put(fresh, {"url": URL}).json["secret"]
    assert other != secret


def test_webhook_can_be_set_in_xml(fresh: Service) -> None:
    body = f'<n:webhook xmlns:n="{UFORGE}"><url>{URL}</url></n:webhook>'.encode()
    made = fresh.call("PUT", ALICE, body=body, content_type=XML, login="alice")
    assert made.status == 200
    assert [each.tag for each in made.xml] == ["url", "secret", "uri"]


def test_webhook_of_another_user_is_not_found(fresh: Service) -> None:
    put(fresh, {"url": URL})
    assert fresh.get(ALICE, login="bob").status == 404
    assert put(fresh, {"url": "https://elsewhere.example.com"}, login="bob").status == 404
    assert fresh.call("DELETE", ALICE, login="bob").status == 404
    assert fresh.store.users.notify("alice").url == URL
