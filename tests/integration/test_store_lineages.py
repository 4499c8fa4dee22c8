"""When an image of a lineage is published, those beyond the newest ones are withdrawn, on each kind of database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from publisher.core.errors import LeaseLost, Reason
from publisher.core.ticket import Older, State, Ticket
from publisher.store import Store, StoredAccount
from publisher.store.leases import Claim
from tests.patience import PATIENCE
from tests.records import OWNER, add_owner, add_ticket, current, put_back, words

FIELDS = {"keystoneUrl": "https://cloud.example.com:5000", "login": "joe"}


@pytest.fixture
def account(store: Store) -> StoredAccount:
    add_owner(store)
    return store.accounts.add(owner=OWNER, name="lab", platform="openstack", fields=FIELDS, sealed_secrets=b"stored")


def begun(store: Store, stored: StoredAccount, keep: int = 2, **values: Any) -> Claim:
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
