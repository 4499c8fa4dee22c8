"""`lineage`, `keep` and `older` in a publish request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from publisher.core.ticket import Older
from tests.service import ACCOUNT, JSON, XML, Service, json_body, ticket_path, xml_body

PATH = "users/alice/appliances/14/images/21/pimages"
LINEAGE: dict[str, Any] = {"lineage": "web", "keep": 2, "older": "withdraw"}


@pytest.fixture
def fresh(start: Callable[..., Service]) -> Service:
    return start()


@pytest.fixture
def reference(fresh: Service) -> dict[str, Any]:
    stored = fresh.post("users/alice/accounts", json.dumps(ACCOUNT), content_type=JSON, login="alice", accept=JSON)
    return {"dbId": stored.json["dbId"]}


@pytest.mark.parametrize("form", [XML, JSON])
def test_lineage_is_kept_and_shown_in_json_only(fresh: Service, reference: dict[str, Any], form: str) -> None:
    body = xml_body if form == XML else json_body
    sent = body(image=None, credAccount=reference, **LINEAGE)
    answer = fresh.post(PATH, sent, content_type=form, login="alice", accept=JSON)
    assert answer.status == 201, answer.body
    assert {name: answer.json[name] for name in LINEAGE} == LINEAGE
    ticket = fresh.ticket(answer.json["dbId"])
    assert (ticket.lineage, ticket.keep, ticket.older) == ("web", 2, Older.WITHDRAW)
    shown = fresh.get(ticket_path(ticket), login="alice", accept=XML)
    assert [shown.text(name) for name in LINEAGE] == [None] * 3


def test_a_lineage_that_leaves_older_images_needs_no_stored_account(fresh: Service) -> None:
    answer = fresh.post(PATH, xml_body(image=None, lineage="web"), login="alice", accept=JSON)
    assert answer.status == 201
    assert (answer.json["older"], "keep" in answer.json) == ("leave", False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"keep": 0}, "keep: "),
        ({"keep": None}, "keep: is needed"),
        ({"older": "leave"}, "keep: is used only if older is withdraw"),
        ({"older": "hide"}, "keep: is used only if older is withdraw"),
        ({"older": "rename"}, "keep: is used only if older is withdraw"),
        ({"older": "delete"}, "older: 'delete' is unknown; use leave, hide, rename or withdraw"),
        ({"keep": 0, "protected": True}, "keep: "),
        ({"lineage": None}, "keep: is used only with a lineage"),
        ({"lineage": None, "keep": None}, "older: is used only with a lineage"),
        ({"lineage": "x" * 256}, "lineage: has 1 to 255 characters"),
        ({"lineage": " web"}, "lineage: has a blank"),
    ],
)
def test_contradictions_are_refused(
    fresh: Service, reference: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    answer = fresh.post(PATH, xml_body(image=None, credAccount=reference, **LINEAGE | changes), login="alice")
    assert answer.status == 400
    assert answer.problem().startswith(problem)
    assert fresh.store.tickets.list() == []


@pytest.mark.parametrize("older", [Older.HIDE, Older.RENAME])
def test_older_images_can_be_hidden_or_renamed(fresh: Service, reference: dict[str, Any], older: Older) -> None:
    body = xml_body(image=None, credAccount=reference, lineage="web", older=older)
    answer = fresh.post(PATH, body, login="alice", accept=JSON)
    assert (answer.status, answer.json.get("older")) == (201, older)


@pytest.mark.parametrize("lineage", [LINEAGE, LINEAGE | {"keep": None, "older": "hide"}])
def test_changing_older_images_needs_a_stored_account(fresh: Service, lineage: dict[str, Any]) -> None:
    answer = fresh.post(PATH, xml_body(image=None, **lineage), login="alice")
    assert answer.status == 400
    assert answer.problem().startswith("older: needs a stored account")
