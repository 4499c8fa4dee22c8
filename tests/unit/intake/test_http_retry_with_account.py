"""A ticket that is retried over the API uses the current values of its stored account."""

from __future__ import annotations

import json
from typing import Any

import pytest

from publisher.core.ticket import Ticket
from tests.service import ACCOUNT, JSON, Service, json_body

PATH = "users/root/appliances/4/pimages"


@pytest.fixture
def account(fresh: Service) -> dict[str, Any]:
    made = fresh.post("users/root/accounts", json.dumps({**ACCOUNT, "name": "lab"}), content_type=JSON, accept=JSON)
    assert made.status == 201, made.body
    found: dict[str, Any] = made.json
    return found


def failed(service: Service, left: str | None = None) -> Ticket:
    made = service.post(PATH, json_body(credAccount={"name": "lab"}), content_type=JSON, accept=JSON)
    assert made.status == 201, made.body
    ticket = service.ticket(made.json["dbId"])
    claim = service.claim(ticket)
    if left:
        service.store.leases.plan(claim, left)
    service.store.leases.failed(claim, error="the login was rejected")
    return ticket


def change(service: Service, account: dict[str, Any], **changes: str) -> None:
    answer = service.call("PUT", account["uri"], body=json.dumps(changes).encode(), content_type=JSON, accept=JSON)
    assert answer.status == 200, answer.body


def retry_path(ticket: Ticket) -> str:
    return f"users/root/appliances/4/images/{ticket.image_id}/pimages/{ticket.id}/retry"


def test_retry_uses_the_corrected_password_and_domain(fresh: Service, account: dict[str, Any]) -> None:
    ticket = failed(fresh)
    change(fresh, account, userDomain="people", password="corrected")
    answer = fresh.post(retry_path(ticket), "", accept=JSON)
    assert answer.status == 201, answer.body
    assert answer.json["credAccount"]["userDomain"] == "people"
    sealed = fresh.ticket(ticket.id).sealed_secrets
    assert sealed
    assert fresh.app.state.services.sealer.open(sealed) == {"password": "corrected"}


def test_retry_with_leftovers_is_refused_if_the_login_has_changed(fresh: Service, account: dict[str, Any]) -> None:
    ticket = failed(fresh, left="an-image")
    change(fresh, account, login="anna", password="another")
    answer = fresh.post(retry_path(ticket), "", accept=JSON)
    assert answer.status == 409
    assert "its account 'lab' leads to another cloud now; publish the image again" in answer.problem()
    assert fresh.ticket(ticket.id).account["login"] == ACCOUNT["login"]
