"""Publish requests that are repeated with the same `Idempotency-Key`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select, update

from publisher.core.vault import Vault
from publisher.store import database
from publisher.store.database import reading, writing
from publisher.store.new_tickets import Basis, BasisWanted, NewTickets
from publisher.web.threads import asking_to_write
from tests.patience import PATIENCE
from tests.service import JSON, SECRET, XML, Answer, Service, image_uri, json_body, ticket_path, xml_body

NESTED = "users/alice/appliances/14/images/21/pimages"
FLAT = "users/alice/appliances/14/pimages"


def post(service: Service, key: str | None, body: str | None = None, *, path: str = NESTED, **options: Any) -> Answer:
    headers = {} if key is None else {"Idempotency-Key": key}
    return service.post(path, body or xml_body(image=21), headers=headers, **{"login": "alice"} | options)


def tickets(service: Service) -> list[int]:
    return [ticket.id for ticket in service.store.tickets.list()]


def stored(service: Service) -> list[Any]:
    with reading(service.store.engine) as connection:
        return list(connection.execute(select(database.idempotency_keys)))


@pytest.mark.parametrize("path", [NESTED, FLAT])
def test_repeated_request_returns_the_same_ticket(fresh: Service, path: str) -> None:
    first = post(fresh, "k", path=path)
    fresh.claim(fresh.ticket(tickets(fresh)[0]))
    again = post(fresh, "k", path=path)
    assert (first.status, again.status) == (201, 201)
    assert again.headers["location"] == first.headers["location"]
    assert again.text("dbId") == first.text("dbId")
    # The answer shows the ticket's current state.
    assert (first.text("status/message"), again.text("status/message")) == ("Queued", "Preparing")
    assert len(tickets(fresh)) == 1
    assert fresh.waker.ids == tickets(fresh)
    assert post(fresh, "k", path=f"/api//{path}").text("dbId") == first.text("dbId")


def test_each_repetition_chooses_its_answer_format(fresh: Service) -> None:
    assert post(fresh, "k", accept=XML).text("dbId") == str(post(fresh, "k", accept=JSON).json["dbId"])


def test_requests_without_key_or_with_new_key_make_new_tickets(fresh: Service) -> None:
    assert [post(fresh, key).status for key in (None, None, "a", "b", None)] == [201] * 5
    assert len(tickets(fresh)) == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"body": xml_body(image=21, displayName="another")},
        {"body": xml_body(image=21) + "\n"},
        {"body": json_body(image=21), "content_type": JSON},
        {"path": FLAT},
        {"path": FLAT.replace("14", "15"), "body": xml_body(image=22)},
        # This body is not even parsed.
        {"body": "<no/>"},
    ],
)
def test_different_request_with_the_same_key_gets_409(fresh: Service, changed: dict[str, Any]) -> None:
    assert post(fresh, "k").status == 201
    answer = post(fresh, "k", **changed)
    assert answer.status == 409
    assert answer.problem().startswith("Idempotency-Key: ")
    assert len(tickets(fresh)) == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\tb", "å", "a\x7f"])
def test_invalid_key_gets_400(fresh: Service, key: str) -> None:
    answer = post(fresh, key)
    assert answer.status == 400
    assert answer.problem().startswith("Idempotency-Key: ")
    assert tickets(fresh) == []


@pytest.mark.parametrize("key", ["x", "x" * 255, "a b", '"quoted"', "~!@#$%^&*()'; DROP TABLE"])
def test_valid_key_is_accepted(fresh: Service, key: str) -> None:
    assert [post(fresh, key).status for _ in range(2)] == [201, 201]
    assert len(tickets(fresh)) == 1


def test_two_keys_in_one_request_get_400(fresh: Service) -> None:
    request = fresh.client.build_request("POST", f"/api/{NESTED}", content=xml_body(image=21))
    request.headers["Authorization"] = "Basic YWxpY2U6cGFzcy13MHJkLTBmLWFsaWNl"
    request.headers["Content-Type"] = XML
    raw = [*request.headers.raw, (b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
    request.headers = type(request.headers)(raw)
    assert fresh.client.send(request).status_code == 400
    assert tickets(fresh) == []


def test_keys_of_different_users_are_independent(fresh: Service) -> None:
    """An administrator's keys are separate too, even on the user's path."""
    answers = [
        post(fresh, "k"),
        post(fresh, "k", login="root"),
        post(fresh, "k", xml_body(image=31), path="users/bob/appliances/24/pimages", login="bob"),
    ]
    assert [answer.status for answer in answers] == [201, 201, 201]
    assert len({answer.text("dbId") for answer in answers}) == 3


def test_key_reveals_nothing_to_callers_who_may_not_publish(fresh: Service) -> None:
    post(fresh, "k")
    assert post(fresh, "k", login=None).status == 401
    assert post(fresh, "k", login="bob").status == 404
    with writing(fresh.store.engine) as connection:
        connection.execute(update(database.users).where(database.users.c.login == "alice").values(entitlements=[]))
    assert post(fresh, "k").status == 403


def test_refused_request_stores_no_key(fresh: Service) -> None:
    for bad in (xml_body(image=21, account__password=None), "<", xml_body(image=21, imageUri=image_uri(22))):
        assert post(fresh, "k", bad).status == 400
    assert stored(fresh) == []
    assert post(fresh, "k").status == 201


def test_expired_key_makes_a_new_ticket(fresh: Service) -> None:
    """An expired key is ignored even if it has not been purged."""
    first = post(fresh, "k")
    for expected in (False, True):
        with writing(fresh.store.engine) as connection:
            age = 86400 + 60 if expected else 86400 - 60
            ticket = fresh.store.tickets.list()[0]
            connection.execute(update(database.idempotency_keys).values(created=ticket.created - age))
        again = post(fresh, "k")
        assert again.status == 201
        assert (again.text("dbId") != first.text("dbId")) is expected
    # The key now belongs to the new ticket.
    assert post(fresh, "k").text("dbId") == again.text("dbId")
    assert len(stored(fresh)) == 1


def test_deleting_a_ticket_deletes_its_key(fresh: Service) -> None:
    post(fresh, "k")
    ticket = fresh.ticket(tickets(fresh)[0])
    fresh.store.tickets.request_cancel(ticket.id)
    assert fresh.call("DELETE", ticket_path(ticket), login="alice").status == 204
    assert stored(fresh) == []
    assert post(fresh, "k", xml_body(image=21, displayName="another")).status == 201


def test_stored_digest_cannot_be_computed_without_the_secret_key(fresh: Service) -> None:
    post(fresh, "k")
    post(fresh, "other")
    first, second = stored(fresh)
    assert SECRET not in str(first)
    # Equal requests have equal digests, but only the secret key can compute them.
    assert first.digest == second.digest
    stranger = Vault([Fernet.generate_key().decode()])
    request = f"POST\0/api/{NESTED}\0{xml_body(image=21)}".encode()
    assert first.digest in Vault.from_file(fresh.settings.key_file).fingerprints(request)
    assert first.digest not in stranger.fingerprints(request)


def test_key_stays_valid_after_secret_key_rotation(fresh: Service) -> None:
    old = fresh.settings.key_file.read_text().strip()
    post(fresh, "k")
    services = fresh.app.state.services
    object.__setattr__(services, "sealer", Vault([Fernet.generate_key().decode(), old]))
    assert post(fresh, "k").status == 201
    assert len(tickets(fresh)) == 1


def test_concurrent_requests_with_one_key_make_one_ticket(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if none of them finds the key at first."""
    look = NewTickets.bases
    groups: list[int] = []

    def hold_the_first(new_tickets: NewTickets, group: Sequence[BasisWanted]) -> Sequence[Basis]:
        groups.append(len(group))
        deadline = time.monotonic() + 20 * PATIENCE
        while groups == [1] and len(asking_to_write) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        return look(new_tickets, group)

    monkeypatch.setattr(NewTickets, "bases", hold_the_first)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(post, fresh, "another")
        while not groups:
            time.sleep(0.001)
        answers = list(pool.map(lambda _: post(fresh, "k"), range(4)))
    assert groups == [1, 4], "each of the four looked before any of them had made a ticket"
    assert first.result().status == 201
    assert [answer.status for answer in answers] == [201] * 4
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(tickets(fresh)) == 2
    assert fresh.waker.ids == tickets(fresh)
