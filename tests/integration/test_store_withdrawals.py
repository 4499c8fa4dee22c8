"""Withdrawals as callers, workers and the sweeper see them, on each kind of database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from publisher.core.errors import Conflict, InvalidRequest, LeaseLost, NotFound, Reason
from publisher.core.ticket import Phase, State, Ticket
from publisher.store import AccountGiven, Actor, Standing, Store, StoredAccount
from publisher.store.database import audit, notifications, reading, tombstones
from publisher.store.leases import Claim
from publisher.store.limits import Limits
from tests.patience import PATIENCE
from tests.records import OWNER, add_owner, add_ticket, current, put_back, words

pytestmark = pytest.mark.long

FIELDS = {"keystoneUrl": "https://cloud.example.com:5000", "login": "joe"}
TARGET = {"keystoneProject": "p", "displayName": "x"}
GIVEN = AccountGiven(FIELDS, b"given")


def claim(store: Store, ticket: Ticket, worker: str = "a") -> Claim:
    claimed = store.leases.claim(ticket.id, worker, 60)
    assert claimed is not None
    return claimed


@pytest.fixture
def account(store: Store) -> StoredAccount:
    add_owner(store)
    return store.accounts.add(owner=OWNER, name="lab", platform="openstack", fields=FIELDS, sealed_secrets=b"stored")


def published(store: Store, stored: StoredAccount | None = None, **values: Any) -> Ticket:
    plain: dict[str, Any] = {"platform": "openstack", "account": FIELDS, "target": TARGET}
    if stored:
        plain |= {"account": FIELDS | {"name": stored.name}, "account_id": stored.id}
    ticket = add_ticket(store, **plain | values)
    held = claim(store, ticket)
    store.leases.plan(held, "c-1")
    store.leases.mark(held, "c-1", "present")
    store.leases.published(held, cloud_id="c-1", location="RegionOne")
    return current(store, ticket)


def withdrawing(store: Store) -> Ticket:
    return store.tickets.request_withdrawal(published(store).id, GIVEN)


# The request ----------------------------------------------------


def test_a_withdrawal_uses_the_stored_account_as_it_is_now(store: Store, account: StoredAccount) -> None:
    ticket = published(store, account)
    assert ticket.sealed_secrets is None
    store.accounts.update(OWNER, account.id, sealed_secrets=b"new")
    asked = store.tickets.request_withdrawal(ticket.id)
    assert (asked.state, asked.phase, asked.sealed_secrets) == (State.WITHDRAWING, Phase.WAITING, b"new")
    assert asked.withdrawal is not None
    assert (asked.cloud_id, asked.progress, asked.finished) == (ticket.cloud_id, ticket.progress, ticket.finished)
    assert store.tickets.due() == [ticket.id]
    assert words(store, ticket)[-1] == "Withdrawal requested, with the account 'lab' as it is now"


def test_a_doubled_request_changes_nothing(store: Store) -> None:
    store = store.acting(Actor("anna", "api"))
    ticket = withdrawing(store)
    assert store.tickets.request_withdrawal(ticket.id) == ticket
    store.leases.withdrawn(claim(store, ticket), words="Withdrawn")
    ended = current(store, ticket)
    assert store.tickets.request_withdrawal(ticket.id) == ended
    with reading(store.engine) as connection:
        actions = [row.action for row in connection.execute(audit.select().where(audit.c.action == "ticket.withdraw"))]
    assert actions == ["ticket.withdraw"]


@pytest.mark.long
def test_racing_requests_begin_one_withdrawal(stores: Callable[[], Store]) -> None:
    racers = [stores() for _ in range(4)]
    ticket = published(racers[0])
    start = threading.Barrier(4)

    def race(store: Store) -> State:
        start.wait(30 * PATIENCE)
        return store.tickets.request_withdrawal(ticket.id, GIVEN).state

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(race, racers)) == [State.WITHDRAWING] * 4
    assert sum("Withdrawal requested" in line for line in words(racers[0], ticket)) == 1


def test_a_withdrawal_of_a_ticket_that_has_not_ended_cancels_it(store: Store) -> None:
    queued, going_on = add_ticket(store), add_ticket(store)
    claim(store, going_on)
    assert store.tickets.request_withdrawal(queued.id).state is State.CANCELLED
    assert store.tickets.request_withdrawal(queued.id).state is State.CANCELLED
    assert store.tickets.request_withdrawal(going_on.id).state is State.CANCELLING
    assert store.tickets.request_withdrawal(going_on.id).state is State.CANCELLING


def test_a_failed_ticket_has_nothing_to_withdraw(store: Store) -> None:
    ticket = add_ticket(store)
    store.leases.failed(claim(store, ticket), error="no")
    with pytest.raises(Conflict, match="has published nothing"):
        store.tickets.request_withdrawal(ticket.id)
    with pytest.raises(NotFound):
        store.tickets.request_withdrawal(999)


def test_a_withdrawal_without_secrets_is_refused(store: Store, account: StoredAccount) -> None:
    without = published(store)
    own_secrets = published(store, account, own_elements={"password"})
    deleted = published(store, account)
    store.accounts.remove(OWNER, account.id)
    for ticket in (without, own_secrets, deleted):
        with pytest.raises(InvalidRequest, match=f"credAccount: is needed to withdraw ticket {ticket.id}"):
            store.tickets.request_withdrawal(ticket.id)
        assert current(store, ticket) == ticket
        assert store.tickets.request_withdrawal(ticket.id, GIVEN).sealed_secrets == b"given"


@pytest.mark.parametrize("changes", [{"login": "anna"}, {"glanceUrl": "https://glance.example.com"}])
def test_an_account_that_leads_elsewhere_is_refused(
    store: Store, account: StoredAccount, changes: dict[str, str]
) -> None:
    """It would not find the image, and the ticket would say that it is gone."""
    ticket = published(store, account)
    with pytest.raises(InvalidRequest, match="credAccount: leads to another cloud"):
        store.tickets.request_withdrawal(ticket.id, AccountGiven(FIELDS | changes, b"given"))
    store.accounts.update(OWNER, account.id, fields=changes, sealed_secrets=b"new")
    with pytest.raises(InvalidRequest, match="credAccount: leads to another cloud"):
        store.tickets.request_withdrawal(ticket.id)
    assert current(store, ticket) == ticket


def test_a_ticket_that_is_being_withdrawn_cannot_be_cancelled_retried_or_deleted(store: Store) -> None:
    ticket = withdrawing(store)
    with pytest.raises(Conflict, match="is being withdrawn"):
        store.tickets.request_cancel(ticket.id)
    with pytest.raises(Conflict, match="only a failed or cancelled one"):
        store.tickets.retry(ticket.id)
    with pytest.raises(Conflict, match="wait for the end of that"):
        store.tickets.remove(ticket.id)
    with pytest.raises(Conflict, match="wait for the end of its withdrawal"):
        store.tickets.remove_all(ticket.owner, ticket.appliance_id)


# The worker -----------------------------------------------------


def test_a_withdrawal_is_claimed_once_and_again_when_its_lease_has_expired(store: Store) -> None:
    ticket = withdrawing(store)
    held = claim(store, ticket)
    assert held.ticket.state is State.WITHDRAWING
    assert held.ticket.progress == ticket.progress, "what was uploaded is still known"
    assert held.ticket.started == ticket.started
    assert store.leases.claim(ticket.id, "b", 60) is None
    put_back(store, ticket, lease_until=1)
    second = claim(store, ticket, "b")
    with pytest.raises(LeaseLost):
        store.leases.withdrawn(held, words="x")
    with pytest.raises(LeaseLost):
        store.leases.not_withdrawn(held, error="x", detail="x", reason=Reason.FORBIDDEN)
    with pytest.raises(LeaseLost):
        store.leases.withdraw_later(held, delay_seconds=1, error="x", reason=Reason.UNAVAILABLE)
    with pytest.raises(LeaseLost):
        store.leases.mark(held, "c-1", "gone")
    store.leases.extend(second, 60)
    store.leases.withdrawn(second, words="Withdrawn")
    assert store.leases.claim(ticket.id, "c", 60) is None


def test_a_withdrawal_needs_no_slot_and_takes_none(store: Store) -> None:
    store = Store(store.engine, limits=Limits(account_uploads=1))
    ticket = withdrawing(store)
    uploading = add_ticket(store, platform="openstack", account=FIELDS, target=TARGET)
    claim(store, uploading)
    claim(store, ticket)
    waiting = add_ticket(store, platform="openstack", account=FIELDS, target=TARGET)
    assert store.leases.claim(waiting.id, "b", 60) is None, "the upload has the slot"


def test_the_published_id_stays_until_the_end(store: Store) -> None:
    ticket = withdrawing(store)
    held = claim(store, ticket)
    for mark in ("condemned", "gone"):
        store.leases.mark(held, "c-1", mark)
        assert current(store, ticket).cloud_id == "c-1"
    store.leases.withdrawn(held, words="Withdrawn")
    now = current(store, ticket)
    assert (now.cloud_id, now.sealed_secrets) == (None, None)
    assert now.finished is not None
    assert ticket.finished is not None
    assert now.finished > ticket.finished


# The sweeper ----------------------------------------------------


def test_the_sweeper_keeps_what_is_being_withdrawn_and_deletes_what_that_left(store: Store) -> None:
    ticket = withdrawing(store)
    put_back(store, ticket, finished=9000)
    assert store.sweeping.standing(ticket.uid, "c-1", 3600) is Standing.KEPT
    held = claim(store, ticket)
    store.leases.not_withdrawn(held, error="in use", detail="", reason=Reason.REFUSED)
    assert store.sweeping.standing(ticket.uid, "c-1", 3600) is Standing.KEPT
    store.tickets.request_withdrawal(ticket.id, GIVEN)
    store.leases.withdrawn(claim(store, ticket), words="Withdrawn")
    assert store.sweeping.standing(ticket.uid, "c-1", 3600) is Standing.KEPT, "it ended only recently"
    put_back(store, ticket, finished=9000)
    assert store.sweeping.standing(ticket.uid, "c-1", 3600) is Standing.ORPHAN


def test_a_deleted_ticket_that_was_withdrawn_has_published_nothing(store: Store) -> None:
    ticket = withdrawing(store)
    store.leases.withdrawn(claim(store, ticket), words="Withdrawn")
    store.tickets.remove(ticket.id)
    with reading(store.engine) as connection:
        assert [row.published for row in connection.execute(tombstones.select())] == [False]


def test_a_withdrawal_waits_for_the_sweeper(store: Store) -> None:
    ticket = add_ticket(store, platform="openstack", account=FIELDS, target=TARGET)
    held = claim(store, ticket)
    store.leases.plan(held, "left")
    store.leases.mark(held, "left", "present")
    store.leases.published(held, cloud_id="c-1", location=None)
    put_back(store, ticket, finished=9000)
    with store.sweeping.removing(ticket.uid, "left", 3600, 60) as free:
        assert free
        store.tickets.request_withdrawal(ticket.id, GIVEN)
        assert store.leases.claim(ticket.id, "a", 60) is None
        assert store.tickets.due() == []
    assert store.tickets.due() == [ticket.id]
    claim(store, ticket)


# Webhooks -------------------------------------------------------


def test_the_end_of_a_withdrawal_is_notified_and_no_second_publication_is(store: Store) -> None:
    ticket = published(store, notify_url="https://listener.example.com/")

    def bodies() -> list[dict[str, Any]]:
        with reading(store.engine) as connection:
            rows = connection.execute(notifications.select().order_by(notifications.c.id))
            return [json.loads(row.body) for row in rows]

    store.tickets.request_withdrawal(ticket.id, GIVEN)
    store.leases.not_withdrawn(claim(store, ticket), error="it is in use", detail="", reason=Reason.REFUSED)
    store.tickets.request_withdrawal(ticket.id, GIVEN)
    held = claim(store, ticket)
    store.leases.withdraw_later(held, delay_seconds=0, error="away", reason=Reason.UNAVAILABLE)
    store.leases.withdrawn(claim(store, ticket), words="Withdrawn")
    assert [each["type"] for each in bodies()] == [
        "publication.published",
        "publication.withdrawal_failed",
        "publication.withdrawn",
    ]
    first, refused, withdrawn = [each["data"] for each in bodies()]
    assert (refused["state"], refused["error"], refused["cloudId"]) == ("published", "it is in use", "c-1")
    assert "error" not in first | withdrawn
    assert withdrawn["state"] == "withdrawn"
    assert [each["timestamp"] for each in bodies()] == sorted(each["timestamp"] for each in bodies())
