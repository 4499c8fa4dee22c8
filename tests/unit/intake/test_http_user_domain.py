"""The user's domain and the interface of a cloud: our own elements, read in both formats but shown only in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from lxml import etree

from publisher.core.ticket import Ticket
from publisher.store.database import reading, tickets
from tests.service import ACCOUNT, JSON, XML, Answer, Service, image_uri, json_body, xml_body

PATH = "users/root/appliances/4/pimages"
OURS = {"userDomain": "people", "interface": "internal"}


def stored(service: Service, **changes: Any) -> dict[str, Any]:
    answer = service.post("users/root/accounts", json.dumps({**ACCOUNT, **changes, "name": "lab"}), content_type=JSON,
                          accept=JSON)  # fmt: skip
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made


def names_in(answer: Answer) -> set[str]:
    return {str(etree.QName(each).localname) for each in etree.fromstring(answer.body).iter()}


@pytest.mark.parametrize("form", [JSON, XML])
def test_own_elements_are_read_in_both_formats_but_shown_only_in_json(fresh: Service, form: str) -> None:
    write = json_body if form == JSON else xml_body
    changes: dict[str, Any] = {f"account__{name}": value for name, value in OURS.items()}
    body = write(**changes)
    made = fresh.post(PATH, body, content_type=form, accept=JSON)
    assert made.status == 201, made.body
    assert {name: made.json["credAccount"].get(name) for name in OURS} == OURS
    (ticket,) = fresh.store.tickets.list()
    assert OURS.items() <= ticket.account.items()
    for path in (made.json["uri"], PATH):
        assert not names_in(fresh.get(path, accept=XML)) & set(OURS)


def test_stored_account_keeps_own_elements_that_a_client_omits(fresh: Service) -> None:
    made = stored(fresh, **OURS)
    assert OURS.items() <= made.items()
    assert not names_in(fresh.get(made["uri"], accept=XML)) & set(OURS)
    # A client bound to the schema sends back only the elements that it was shown. The others must stay.
    echo = {name: value for name, value in made.items() if name not in OURS}
    changed = fresh.call("PUT", made["uri"], body=json.dumps(echo).encode(), content_type=JSON, accept=JSON)
    assert changed.status == 200
    assert OURS.items() <= changed.json.items()
    assert fresh.post(PATH, json_body(credAccount={"name": "lab"}), content_type=JSON).status == 201
    (ticket,) = fresh.store.tickets.list()
    assert OURS.items() <= ticket.account.items()


def test_changed_user_domain_requires_the_secret_again(fresh: Service) -> None:
    made = stored(fresh, **OURS)
    for changes, status in (({"userDomain": "others"}, 400), ({"interface": "public"}, 200)):
        body = json.dumps(made | changes).encode()
        answer = fresh.call("PUT", made["uri"], body=body, content_type=JSON, accept=JSON)
        assert answer.status == status, answer.body


def test_unknown_interface_is_refused(fresh: Service) -> None:
    answer = fresh.post(PATH, json_body(account__interface="outer"), content_type=JSON, accept=JSON)
    assert answer.status == 400
    assert answer.problem().startswith("credAccount.interface: 'outer' is unknown; use one of public, internal, admin")


def own_elements(service: Service, ticket: Ticket) -> list[str] | None:
    with reading(service.store.engine) as connection:
        row = connection.execute(tickets.select().where(tickets.c.id == ticket.id)).one()
    found: list[str] | None = row.own_elements
    return found


@pytest.mark.parametrize(
    ("account", "own"),
    [
        ({"name": "lab"}, []),
        ("echo", []),
        ({"name": "lab", "userDomain": "others"}, ["userDomain"]),
        ({"name": "lab", "password": "another", "login": ACCOUNT["login"]}, ["password"]),
        (dict(ACCOUNT), None),
    ],
    ids=["named", "echoed", "another domain", "its own password", "inline"],
)
def test_elements_that_override_a_stored_account_are_recorded(
    fresh: Service, account: Mapping[str, Any] | str, own: list[str] | None
) -> None:
    made = stored(fresh, **OURS)
    body = json_body(credAccount=made if account == "echo" else account, imageUri=image_uri(7))
    assert fresh.post(PATH, body, content_type=JSON).status == 201
    (ticket,) = fresh.store.tickets.list()
    assert own_elements(fresh, ticket) == own
