"""Images that expire are announced once, then withdrawn, on each kind of database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import update

from publisher.core.errors import Conflict, InvalidRequest, Reason
from publisher.core.ticket import State, Ticket
from publisher.store import Store, StoredAccount
from publisher.store.database import db_now, notifications, reading, tickets, writing
from tests.records import OWNER, add_owner, add_ticket, current, words

pytestmark = pytest.mark.long

FIELDS = {"keystoneUrl": "https://cloud.example.com:5000", "login": "joe"}
DAY = 86400.0


@pytest.fixture
def account(store: Store) -> StoredAccount:
    add_owner(store)
    return store.accounts.add(owner=OWNER, name="lab", platform="openstack", fields=FIELDS, sealed_secrets=b"stored")


def now(store: Store) -> float:
    with reading(store.engine) as connection:
        return float(connection.execute(db_now().select()).scalar_one())


def published(store: Store, stored: StoredAccount, in_seconds: float | None) -> Ticket:
    ticket = add_ticket(
        store,
        platform="openstack",
        account=stored.fields | {"name": stored.name},
        account_id=stored.id,
        notify_url="https://listener.example.com/",
        expires=None if in_seconds is None else now(store) + in_seconds,
    )
    claim = store.leases.claim(ticket.id, "w", 60)
    assert claim
    store.leases.published(claim, cloud_id="c-1", location=None)
    return current(store, ticket)


def advance(store: Store, ticket: Ticket, seconds: float) -> list[int]:
    """Let so much time pass, take all steps that are due, and return the tickets of these."""
    with writing(store.engine) as connection:
        times = {"expires": tickets.c.expires - seconds, "expiry_due": tickets.c.expiry_due - seconds}
        connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(times))
    due = list(store.expiries.due())
    for _ in range(2):  # another leader may take the same step
        for id in due:
            store.expiries.advance(id)
    return due


def notified(store: Store) -> list[dict[str, Any]]:
    with reading(store.engine) as connection:
        rows = connection.execute(notifications.select().order_by(notifications.c.id))
        return [json.loads(row.body) for row in rows]


def test_an_expiry_is_announced_once_and_then_the_image_is_withdrawn(store: Store, account: StoredAccount) -> None:
    ticket, lasting = published(store, account, 3 * DAY), published(store, account, None)
    assert advance(store, ticket, 0) == []
    assert advance(store, ticket, 2.5 * DAY) == [ticket.id]
    assert [each["type"] for each in notified(store)][2:] == ["publication.expiring"]
    data = notified(store)[-1]["data"]
    assert (data["ticket"], data["state"], data["cloudId"]) == (ticket.id, "published", "c-1")
    assert data["expires"].endswith("Z")
    assert words(store, ticket)[-1] == "Its expiry was announced"
    assert advance(store, ticket, 0.4 * DAY) == []
    assert current(store, ticket).state is State.PUBLISHED
    assert advance(store, ticket, 0.2 * DAY) == [ticket.id]
    withdrawing = current(store, ticket)
    assert (withdrawing.state, withdrawing.sealed_secrets) == (State.WITHDRAWING, b"stored")
    assert words(store, ticket)[-1].startswith("The image has expired: withdrawal requested, with the account 'lab'")
    assert store.tickets.due() == [ticket.id]
    assert len(notified(store)) == 3, "nothing more was announced"
    assert current(store, lasting).state is State.PUBLISHED


def test_an_image_that_is_published_late_is_announced_at_once(store: Store, account: StoredAccount) -> None:
    ticket = published(store, account, 3600)
    assert advance(store, ticket, 0) == [ticket.id]
    assert notified(store)[-1]["type"] == "publication.expiring"
    assert current(store, ticket).state is State.PUBLISHED


def test_an_image_that_is_not_published_does_not_expire(store: Store, account: StoredAccount) -> None:
    ticket = add_ticket(store, account_id=account.id, expires=now(store) + 60)
    assert advance(store, ticket, DAY) == []


def test_a_refused_withdrawal_is_tried_again_a_day_later(store: Store, account: StoredAccount) -> None:
    ticket = published(store, account, 60)
    advance(store, ticket, 120)
    claim = store.leases.claim(ticket.id, "w", 60)
    assert claim
    store.leases.not_withdrawn(claim, error="not withdrawn: in use", detail="", reason=Reason.REFUSED)
    assert advance(store, ticket, 0.9 * DAY) == []
    assert advance(store, ticket, 0.2 * DAY) == [ticket.id]
    assert current(store, ticket).state is State.WITHDRAWING


def test_without_its_account_the_ticket_says_why_it_is_not_withdrawn(store: Store, account: StoredAccount) -> None:
    ticket = published(store, account, 60)
    store.accounts.remove(OWNER, account.id)
    assert advance(store, ticket, 120) == [ticket.id]
    after = current(store, ticket)
    assert after.state is State.PUBLISHED
    assert (after.error or "").startswith("not withdrawn, although the image has expired: credAccount: is needed")
    assert advance(store, ticket, 0) == [], "only a day later"


def test_an_expiry_in_the_past_is_refused(store: Store, account: StoredAccount) -> None:
    with pytest.raises(InvalidRequest, match="expires: is in the past"):
        add_ticket(store, account_id=account.id, expires=now(store) - 1)


def test_a_ticket_whose_image_would_have_expired_cannot_be_retried(store: Store, account: StoredAccount) -> None:
    ticket = add_ticket(store, account_id=account.id, expires=now(store) + 60)
    store.tickets.request_cancel(ticket.id)
    advance(store, ticket, 120)
    with pytest.raises(Conflict, match="would have expired"):
        store.tickets.retry(ticket.id)
