"""The audit log of changes made over the API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from publisher.core.cloud_check import CheckResult
from publisher.intake.openapi import resources
from publisher.store.database import Actor
from tests.service import ACCOUNT, JSON, PASSWORDS, SECRET, Service, json_body, ticket_path

ALICE = Actor("alice", "api", "testclient")


CHANGES = {
    "ticket.create": {("POST", "appliances/{}/pimages"), ("POST", "appliances/{}/images/{}/pimages")},
    "ticket.cancel": {("DELETE", "appliances/{}/images/{}/pimages/{}/cancel")},
    "ticket.retry": {("POST", "appliances/{}/images/{}/pimages/{}/retry")},
    "ticket.withdraw": {("POST", "appliances/{}/images/{}/pimages/{}/withdraw")},
    "ticket.delete": {("DELETE", "appliances/{}/images/{}/pimages/{}"), ("DELETE", "appliances/{}/pimages")},
    "image.create": {("POST", "appliances/{}/images")},
    "image.generate": {("POST", "appliances/{}/images/{}")},
    "image.cancel": {("DELETE", "appliances/{}/images/{}/status")},
    "image.delete": {("DELETE", "appliances/{}/images/{}"), ("DELETE", "appliances/{}/images")},
    "account.create": {("POST", "accounts")},
    "account.change": {("PUT", "accounts/{}")},
    "account.delete": {("DELETE", "accounts/{}")},
    "account.test": {("POST", "accounts/{}/test")},
    "key.create": {("POST", "apikeys")},
    "key.delete": {("DELETE", "apikeys/{}")},
    "user.notify": {("PUT", "webhook"), ("DELETE", "webhook")},
}
"""Every audit action of the API, and the requests that cause it. Each has a test below."""


def test_every_changing_route_has_an_audit_action(service: Service) -> None:
    known = {(method, f"/users/{{}}/{path}") for each in CHANGES.values() for method, path in each}
    api = {(each.method, re.sub(r"{\w+}", "{}", each.path)) for each in resources(service.app.routes)}
    assert {(method, path) for method, path in api if method not in ("GET", "OPTIONS")} == known


def noted(service: Service) -> list[tuple[str, str, str]]:
    return [(each.actor.login, each.action, each.object) for each in reversed(service.store.audit.latest(1000))]


def test_every_change_has_an_audit_entry(fresh: Service) -> None:
    appliance = "users/alice/appliances/14"
    account = json.dumps({"@type": "CredAccountOpenStack", **ACCOUNT, "name": "lab"})
    path = ticket_path(fresh.publish())
    flat = fresh.post(f"{appliance}/pimages", json_body(21), content_type=JSON, accept=JSON, login="alice")
    fresh.store.tickets.request_cancel(flat.json["dbId"])
    key = json.dumps({"name": "ci"})
    steps: list[tuple[str, str, str | None, str, str]] = [
        ("DELETE", f"{path}/cancel", None, "ticket.cancel", path),
        ("POST", f"{path}/retry", None, "ticket.retry", path),
        ("DELETE", f"{path}/cancel", None, "ticket.cancel", path),
        ("DELETE", path, None, "ticket.delete", path),
        ("DELETE", f"{appliance}/pimages", None, "ticket.delete", flat.json["uri"]),
        ("POST", "users/alice/accounts", account, "account.create", "users/alice/accounts/1"),
        ("PUT", "users/alice/accounts/1", account, "account.change", "users/alice/accounts/1"),
        ("DELETE", "users/alice/accounts/1", None, "account.delete", "users/alice/accounts/1"),
        ("POST", "users/alice/apikeys", key, "key.create", "users/alice/apikeys/1"),
        ("DELETE", "users/alice/apikeys/1", None, "key.delete", "users/alice/apikeys/1"),
        (
            "PUT",
            "users/alice/webhook",
            json.dumps({"url": "https://ci.example.com/x"}),
            "user.notify",
            "users/alice/webhook",
        ),
        ("DELETE", "users/alice/webhook", None, "user.notify", "users/alice/webhook"),
        ("DELETE", f"{appliance}/images/21", None, "image.delete", f"{appliance}/images/21"),
        ("DELETE", f"{appliance}/images", None, "image.delete", f"{appliance}/images/23"),
    ]
    expected = [("alice", "ticket.create", path), ("alice", "ticket.create", flat.json["uri"])]
    for method, target, body, action, object in steps:
        answer = fresh.call(
            method, target, login="alice", accept=JSON, content_type=JSON if body else None, body=(body or "").encode()
        )
        assert answer.status < 300, (target, answer.body)
        expected.append(("alice", action, object))
    assert noted(fresh) == expected
    actors = {replace(each.actor, request_id=None) for each in fresh.store.audit.latest(1000)}
    assert actors == {ALICE}
    assert all(each.actor.request_id for each in fresh.store.audit.latest(1000))
    for entry in fresh.store.audit.latest(1000):
        for secret in (SECRET, *PASSWORDS.values()):
            assert secret not in repr(entry)


@pytest.mark.long
def test_withdrawal_and_test_of_an_account_have_audit_entries(fresh: Service) -> None:
    ticket = fresh.publish()
    fresh.store.leases.published(fresh.claim(ticket), cloud_id="a-cloud-id", location=None)
    body = json.dumps({"@type": "CredAccountOpenStack", **ACCOUNT})
    withdraw = f"{ticket_path(ticket)}/withdraw"
    for _ in range(2):
        assert fresh.post(withdraw, body, content_type=JSON, login="alice").status == 200
    body = json.dumps({"@type": "CredAccountOpenStack", **ACCOUNT, "name": "lab"})
    assert fresh.post("users/alice/accounts", body, content_type=JSON, login="alice").status == 201

    def answer(check_id: int) -> None:
        claimed = fresh.store.checks.claim(check_id)
        assert claimed is not None
        fresh.store.checks.finish(claimed, CheckResult(True, "the account can sign in"))

    fresh.waker.on_check = answer
    assert fresh.post("users/alice/accounts/1/test", b"", content_type=None, login="alice").status == 200
    assert noted(fresh)[1:] == [
        ("alice", "ticket.withdraw", ticket_path(ticket)),
        ("alice", "account.create", "users/alice/accounts/1"),
        ("alice", "account.test", "users/alice/accounts/1"),
    ]


def test_sent_and_named_images_have_audit_entries(fresh: Service) -> None:
    images = "users/alice/appliances/14/images"
    sent = fresh.post(
        f"{images}?name=mine&format=raw", b"bytes", content_type="application/octet-stream", login="alice"
    )
    assert sent.status == 201
    fresh.settings.images.joinpath("disk.raw").write_bytes(b"a disk")
    named = fresh.post(images, json.dumps({"location": "disk.raw"}), content_type=JSON, accept=JSON, login="alice")
    assert named.status == 201, named.body
    uri = named.json["uri"]
    assert fresh.call("DELETE", f"{uri}/status", login="alice").status == 204
    assert fresh.post(uri, b"", content_type=None, login="alice").status == 201
    actions = [action for _, action, _ in noted(fresh)]
    assert actions == ["image.create", "image.create", "image.cancel", "image.generate"]


def test_deletion_of_all_tickets_has_one_entry_per_ticket(fresh: Service) -> None:
    paths = []
    for _ in range(3):
        ticket = fresh.publish()
        fresh.store.tickets.request_cancel(ticket.id)
        paths.append(ticket_path(ticket))
    assert fresh.call("DELETE", "users/alice/appliances/14/pimages", login="alice").status == 204
    deleted = [object for _, action, object in noted(fresh) if action == "ticket.delete"]
    assert sorted(deleted) == sorted(paths)


def test_administrator_is_logged_under_their_own_login(fresh: Service) -> None:
    ticket = fresh.publish()
    assert fresh.call("DELETE", f"{ticket_path(ticket)}/cancel", login="root").status == 204
    assert noted(fresh)[-1] == ("root", "ticket.cancel", ticket_path(ticket))


@pytest.mark.parametrize("answered", [401, 403, 404, 409])
def test_refused_request_has_no_audit_entry(start: Callable[..., Service], answered: int) -> None:
    service = start()
    ticket = service.publish()
    before = noted(service)
    path, login, password = {
        401: (ticket_path(ticket), "alice", "wrong"),
        403: ("users/carol/appliances/14/images/21/pimages/1", "carol", None),
        404: (ticket_path(ticket), "bob", None),
        409: (ticket_path(ticket), "alice", None),
    }[answered]
    assert service.call("DELETE", path, login=login, password=password).status == answered
    assert noted(service) == before
