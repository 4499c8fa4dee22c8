"""`expires` in a publish request: when the service withdraws the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.service import ACCOUNT, JSON, XML, Service, json_body, ticket_path, xml_body

LATER = "2999-01-02T03:04:05.000Z"
PATH = "users/alice/appliances/14/images/21/pimages"


@pytest.fixture
def fresh(start: Callable[..., Service]) -> Service:
    return start()


@pytest.fixture
def reference(fresh: Service) -> dict[str, Any]:
    """Store an account, and return a reference to it."""
    stored = fresh.post("users/alice/accounts", json.dumps(ACCOUNT), content_type=JSON, login="alice", accept=JSON)
    return {"dbId": stored.json["dbId"]}


@pytest.mark.parametrize("form", [XML, JSON])
def test_expiry_is_kept_and_shown_in_json_only(fresh: Service, reference: dict[str, Any], form: str) -> None:
    body = xml_body if form == XML else json_body
    sent = body(image=None, credAccount=reference, expires=LATER)
    answer = fresh.post(PATH, sent, content_type=form, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    assert answer.json["expires"] == LATER
    ticket = fresh.ticket(answer.json["dbId"])
    assert ticket.expires == datetime.fromisoformat(LATER).astimezone(UTC).timestamp()
    assert fresh.get(ticket_path(ticket), login="alice", accept=JSON).json["expires"] == LATER
    assert fresh.get(ticket_path(ticket), login="alice", accept=XML).text("expires") is None


@pytest.mark.parametrize(
    ("expires", "problem"),
    [
        ("2020-01-02T03:04:05Z", "expires: is in the past"),
        ("0001-01-01T00:00:00+14:00", "expires: is in the past"),
        ("tomorrow", "expires: 'tomorrow' is not a dateTime"),
        ("2999-01-02T03:04:05", "expires: '2999-01-02T03:04:05' is not a dateTime with an offset"),
    ],
)
def test_wrong_expiry_is_refused(fresh: Service, reference: dict[str, Any], expires: str, problem: str) -> None:
    answer = fresh.post(PATH, xml_body(image=None, credAccount=reference, expires=expires), login="alice")
    assert answer.status == 400
    assert answer.problem().startswith(problem)
    assert fresh.store.tickets.list() == []


def test_expiry_without_a_stored_account_is_refused(fresh: Service, reference: dict[str, Any]) -> None:
    """A published ticket has no secrets any more, so nothing could sign in."""
    for account in (ACCOUNT, reference | {"password": "another"}):
        answer = fresh.post(PATH, xml_body(image=None, credAccount=account, expires=LATER), login="alice")
        assert answer.status == 400
        assert answer.problem().startswith("expires: needs a stored account")
