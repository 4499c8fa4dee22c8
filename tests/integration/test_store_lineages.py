"""When an image of a lineage is published, those beyond the newest ones are withdrawn, on each kind of database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from publisher.core.errors import LeaseLost, Reason
from publisher.core.ticket import Older, State, Ticket
from publisher.store import Store, StoredAccount
from publisher.store.database import reading, tickets, tombstones
from publisher.store.leases import Claim
from publisher.store.tickets import _RETIREMENT_DUE
from tests.patience import PATIENCE
from tests.records import OWNER, add_owner, add_ticket, current, put_back, words

pytestmark = pytest.mark.long

FIELDS = {"keystoneUrl": "https://cloud.example.com:5000", "login": "joe"}


@pytest.fixture
def account(store: Store) -> StoredAccount:
    add_owner(store)
    return store.accounts.add(owner=OWNER, name="lab", platform="openstack", fields=FIELDS, sealed_secrets=b"stored")


def begun(store: Store, stored: StoredAccount, keep: int | None = 2, **values: Any) -> Claim:
    plain: dict[str, Any] = {
        "platform": "openstack",
        "account": stored.fields | {"name": stored.name},
        "account_id": stored.id,
        "lineage": "web",
        "keep": keep,
        "older": Older.WITHDRAW,
    }
    claim = store.leases.claim(add_ticket(store, **plain | values).id, "w", 60)
    assert claim
    return claim


def publish(store: Store, claim: Claim) -> Sequence[int]:
    return store.leases.published(claim, cloud_id=f"c-{claim.ticket.id}", location=None)


def published(store: Store, stored: StoredAccount, **values: Any) -> Ticket:
    claim = begun(store, stored, **values)
    publish(store, claim)
    return current(store, claim.ticket)


def states(store: Store) -> list[State]:
    return [each.state for each in store.tickets.list()]


def test_only_the_newest_images_stay(store: Store, account: StoredAccount) -> None:
    first, second = published(store, account), published(store, account)
    assert states(store) == [State.PUBLISHED] * 2
    claim = begun(store, account)
    assert list(publish(store, claim)) == [first.id], "its worker is woken"
    assert states(store) == [State.WITHDRAWING, State.PUBLISHED, State.PUBLISHED]
    assert current(store, first).sealed_secrets == b"stored"
    assert store.tickets.due() == [first.id]
    assert words(store, first)[-1].startswith(f"Replaced by ticket {claim.ticket.id} of the lineage 'web': withdrawal")
    published(store, account, keep=1)
    assert states(store) == [State.WITHDRAWING] * 3 + [State.PUBLISHED]
    assert current(store, second).error is None


def test_nothing_else_is_withdrawn(store: Store, account: StoredAccount) -> None:
    other_fields = FIELDS | {"login": "anna"}
    others = [
        published(store, account, lineage="db"),
        published(store, account, lineage=None, keep=None, older=None),
        published(store, account, account=other_fields),
        published(store, account, owner="somebody else"),
    ]
    failed = begun(store, account)
    store.leases.failed(failed, error="no")
    published(store, account, keep=1)
    assert [current(store, each).state for each in others] == [State.PUBLISHED] * len(others)
    assert current(store, failed.ticket).state is State.FAILED


def test_nothing_is_withdrawn_if_older_images_are_left(store: Store, account: StoredAccount) -> None:
    for _ in range(3):
        published(store, account, keep=None, older=Older.LEAVE)
    assert states(store) == [State.PUBLISHED] * 3
    published(store, account, keep=1)
    assert states(store) == [State.WITHDRAWING] * 3 + [State.PUBLISHED]


def test_nothing_is_withdrawn_before_the_new_image_is_published(store: Store, account: StoredAccount) -> None:
    published(store, account, keep=1)
    claim = begun(store, account, keep=1)
    store.leases.plan(claim, "c-2")
    store.leases.mark(claim, "c-2", "present")
    assert states(store) == [State.PUBLISHED, State.PUBLISHING]
    put_back(store, claim.ticket, lease_until=1)
    again = store.leases.claim(claim.ticket.id, "b", 60)
    assert again
    with pytest.raises(LeaseLost):
        publish(store, claim)
    assert states(store) == [State.PUBLISHED, State.PUBLISHING], "a worker that lost its lease withdraws nothing"
    publish(store, again)
    assert states(store) == [State.WITHDRAWING, State.PUBLISHED]


def test_an_earlier_ticket_that_is_published_later_replaces_no_newer_one(store: Store, account: StoredAccount) -> None:
    late = begun(store, account, keep=1)
    newer = published(store, account, keep=1)
    assert list(publish(store, late)) == [late.ticket.id]
    assert current(store, newer).state is State.PUBLISHED
    assert current(store, late.ticket).state is State.WITHDRAWING


@pytest.mark.long
def test_images_that_are_published_at_the_same_time_see_each_other(stores: Callable[[], Store]) -> None:
    store, other = stores(), stores()
    add_owner(store)
    stored = store.accounts.add(owner=OWNER, name="lab", platform="openstack", fields=FIELDS, sealed_secrets=b"stored")
    for _ in range(5):
        claims = [begun(store, stored, keep=1) for _ in range(2)]
        start = threading.Barrier(2)

        def race(which: int, claims: list[Claim] = claims, start: threading.Barrier = start) -> None:
            start.wait(30 * PATIENCE)
            publish((store, other)[which], claims[which])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(race, range(2)))
        assert [each.id for each in store.tickets.list(state=State.PUBLISHED)] == [claims[1].ticket.id]


def hiding(store: Store, stored: StoredAccount, older: Older = Older.HIDE, **values: Any) -> Ticket:
    return published(store, stored, keep=None, older=older, **values)


def retiring(store: Store) -> dict[int, str | None]:
    return {each.id: each.retire for each in store.tickets.list()}


@pytest.mark.parametrize("older", [Older.HIDE, Older.RENAME])
def test_older_images_are_to_be_hidden_and_not_the_new_one(store: Store, account: StoredAccount, older: Older) -> None:
    first, second = (published(store, account, keep=None, older=Older.LEAVE) for _ in range(2))
    assert store.tickets.due() == []
    assert not store.tickets.anything_due()
    third = hiding(store, account, older)
    assert retiring(store) == {first.id: older, second.id: older, third.id: None}
    assert states(store) == [State.PUBLISHED] * 3
    assert store.tickets.due() == [first.id, second.id]
    assert store.tickets.anything_due()
    claim = store.leases.claim(first.id, "w", 60)
    assert claim
    assert claim.ticket.sealed_secrets == b"stored"
    assert (claim.ticket.phase, claim.ticket.progress, claim.ticket.started) == (
        first.phase, first.progress, first.started
    )  # fmt: skip
    assert store.leases.claim(first.id, "v", 60) is None
    assert store.tickets.due() == [second.id]
    store.leases.extend(claim, 60)
    store.leases.retired(claim, words="done")
    after = current(store, first)
    assert (after.state, after.retire, after.retired, after.sealed_secrets) == (State.PUBLISHED, None, older, None)
    assert (after.finished, after.cloud_id) == (first.finished, first.cloud_id)
    done = {Older.HIDE: "hidden", Older.RENAME: "renamed"}[older]
    assert after.message == f"Published; {done}: a newer image replaces it"
    assert words(store, first)[-3:] == [
        f"Replaced by ticket {third.id} of the lineage 'web': to be {done}, with the account 'lab' as it is now",
        f"Claimed, to {older} the image, by w",
        "done",
    ]
    assert store.leases.claim(first.id, "w", 60) is None, "it is done"
    assert store.notifications.list(first.id) == []
    fourth = hiding(store, account, older)
    assert retiring(store) == {first.id: None, second.id: older, third.id: older, fourth.id: None}


def test_an_earlier_ticket_that_is_published_later_is_hidden_itself(store: Store, account: StoredAccount) -> None:
    late = begun(store, account, keep=None, older=Older.HIDE)
    newer = hiding(store, account)
    assert list(publish(store, late)) == [late.ticket.id]
    assert retiring(store) == {late.ticket.id: Older.HIDE, newer.id: None}


def test_an_owner_may_insist_on_the_withdrawal_of_a_replaced_image(store: Store, account: StoredAccount) -> None:
    first = published(store, account, keep=1)
    published(store, account, keep=1)
    claim = store.leases.claim(first.id, "w", 60)
    assert claim
    assert claim.ticket.retire == Older.WITHDRAW
    asked = store.tickets.request_withdrawal(first.id)
    assert (asked.state, asked.retire) == (State.WITHDRAWING, None)
    assert store.tickets.request_withdrawal(first.id) == asked
    assert words(store, first)[-1] == "Withdrawal requested by its owner"
    with pytest.raises(LeaseLost):
        store.leases.not_withdrawn(claim, error="it is in use", detail="", reason=Reason.REFUSED)
    store.leases.give_up(claim)
    again = store.leases.claim(first.id, "w", 60)
    assert again
    assert again.ticket.retire is None, "it is withdrawn even if it is in use"
    store.leases.withdrawn(again, words="gone")
    assert current(store, first).state is State.WITHDRAWN


def test_a_worker_that_was_too_late_hides_nothing_that_is_withdrawn(store: Store, account: StoredAccount) -> None:
    first = hiding(store, account)
    hiding(store, account)
    claim = store.leases.claim(first.id, "w", 60)
    assert claim
    asked = store.tickets.request_withdrawal(first.id)
    assert (asked.state, asked.retire) == (State.WITHDRAWING, None)
    with pytest.raises(LeaseLost):
        store.leases.retired(claim, words="done")
    with pytest.raises(LeaseLost):
        store.leases.not_withdrawn(claim, error="no", detail="", reason=Reason.REFUSED)
    put_back(store, first, lease_until=1)
    again = store.leases.claim(first.id, "v", 60)
    assert again
    with pytest.raises(LeaseLost):
        store.leases.extend(claim, 60)
    store.leases.withdrawn(again, words="gone")
    assert current(store, first).state is State.WITHDRAWN


def test_a_newer_wish_replaces_the_one_that_a_worker_fulfils(store: Store, account: StoredAccount) -> None:
    first = hiding(store, account)
    hiding(store, account)
    claim = store.leases.claim(first.id, "w", 60)
    assert claim
    hiding(store, account, Older.RENAME)
    with pytest.raises(LeaseLost):
        store.leases.retired(claim, words="done")
    store.leases.give_up(claim)
    assert first.id in store.tickets.due()
    again = store.leases.claim(first.id, "w", 60)
    assert again
    assert again.ticket.retire == Older.RENAME


def test_an_image_that_cannot_be_hidden_is_tried_again(store: Store, account: StoredAccount) -> None:
    first = hiding(store, account)
    hiding(store, account)
    claim = store.leases.claim(first.id, "w", 60)
    assert claim
    store.leases.withdraw_later(claim, delay_seconds=60, error="not hidden yet: away", reason=Reason.UNAVAILABLE)
    assert current(store, first).message == "Published; not hidden yet: away"
    assert first.id not in store.tickets.due()
    put_back(store, first, lease_until=1, wake_at=1)
    claim = store.leases.claim(first.id, "w", 60)
    assert claim
    store.leases.not_withdrawn(claim, error="not hidden: it is in use", detail="x", reason=Reason.REFUSED)
    after = current(store, first)
    assert (after.state, after.retire, after.retired, after.sealed_secrets) == (State.PUBLISHED, None, None, None)
    assert after.message == "Published; not hidden: it is in use"
    hiding(store, account)
    assert retiring(store)[first.id] == Older.HIDE
    assert current(store, first).error is None


def test_a_ticket_that_is_deleted_before_its_image_is_hidden_leaves_no_secrets(
    store: Store, account: StoredAccount
) -> None:
    first = hiding(store, account)
    hiding(store, account)
    store.tickets.remove(first.id)
    with reading(store.engine) as connection:
        assert {row.sealed_secrets for row in connection.execute(tombstones.select())} <= {None}


def test_the_sweeper_looks_for_hidden_images_where_one_was_hidden(store: Store, account: StoredAccount) -> None:
    first = begun(store, account, keep=None, older=Older.HIDE)
    store.leases.plan(first, "c-1")
    publish(store, first)
    hiding(store, account)
    assert [each.target.get("hidden") for each in store.sweeping.scopes()] == [None]
    held = store.leases.claim(first.ticket.id, "w", 60)
    assert held
    store.leases.retired(held, words="done")
    assert [each.target.get("hidden") for each in store.sweeping.scopes()] == [True]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_due_retirements_are_found_by_an_index(store: Store) -> None:
    query = str(
        select(tickets.c.id).where(_RETIREMENT_DUE).compile(store.engine, compile_kwargs={"literal_binds": True})
    )
    with reading(store.engine) as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
    assert any("ix_tickets_retire" in step for step in plan), plan


def test_an_image_that_cannot_be_withdrawn_stays_and_is_tried_again(store: Store, account: StoredAccount) -> None:
    first = published(store, account, own_elements={"password"}, keep=1)
    assert list(publish(store, begun(store, account, keep=1))) == []
    after = current(store, first)
    assert after.state is State.PUBLISHED
    assert (after.error or "").startswith("not withdrawn, although newer images of its lineage replace it: credAccount")
    second = store.tickets.list()[1]
    publish(store, begun(store, account, keep=1))
    claim = store.leases.claim(second.id, "w", 60)
    assert claim
    store.leases.not_withdrawn(claim, error="it is in use", detail="", reason=Reason.REFUSED)
    publish(store, begun(store, account, keep=1))
    assert current(store, second).state is State.WITHDRAWING
