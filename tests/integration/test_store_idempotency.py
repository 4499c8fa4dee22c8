"""Idempotency keys on each kind of database, taken by several processes at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from publisher.core.errors import Conflict
from publisher.store import Store
from publisher.store.database import db_now, history, idempotency_keys, reading, tickets, writing
from publisher.store.new_tickets import IdempotencyKey, KeyTaken
from tests.patience import PATIENCE
from tests.records import add_ticket

DAY = 86400.0


def key(name: str = "k", *, owner: str = "root", fingerprint: str = "f" * 64) -> IdempotencyKey:
    return IdempotencyKey(owner, name, (fingerprint,), DAY)


def grow_old(store: Store, seconds: float) -> None:
    with writing(store.engine) as connection:
        connection.execute(update(idempotency_keys).values(created=db_now() - seconds))


def count(store: Store) -> int:
    with reading(store.engine) as connection:
        return connection.execute(select(func.count()).select_from(idempotency_keys)).scalar_one()


@pytest.mark.long
@pytest.mark.parametrize("expired", [False, True])
def test_only_one_of_racing_requests_creates_a_ticket(stores: Callable[[], Store], expired: bool) -> None:
    racers = [stores() for _ in range(6)]
    add_ticket(racers[0])  # makes its user and image
    for turn in range(5):
        wanted = key(f"key {turn}")
        if expired:
            add_ticket(racers[0], idempotency_key=wanted)
            grow_old(racers[0], DAY + 1)
        with reading(racers[0].engine) as connection:
            before = connection.execute(select(func.count()).select_from(tickets)).scalar_one()
        start = threading.Barrier(len(racers))

        def race(store: Store, wanted: IdempotencyKey = wanted, start: threading.Barrier = start) -> tuple[bool, int]:
            start.wait(30 * PATIENCE)
            try:
                return True, add_ticket(store, idempotency_key=wanted).id
            except KeyTaken:
                first = store.idempotency_keys.ticket(wanted)
                assert first is not None
                return False, first.id

        with ThreadPoolExecutor(len(racers)) as pool:
            results = list(pool.map(race, racers))
        assert sum(made for made, _ in results) == 1
        assert len({id for _, id in results}) == 1
        with reading(racers[0].engine) as connection:
            assert connection.execute(select(func.count()).select_from(tickets)).scalar_one() == before + 1
            # The requests that lost leave no rows.
            assert connection.execute(select(func.count()).select_from(history)).scalar_one() == before + 1


def test_key_of_another_request_is_a_conflict(store: Store) -> None:
    ticket = add_ticket(store, idempotency_key=key())
    assert store.idempotency_keys.ticket(key()) == ticket
    with pytest.raises(Conflict):
        store.idempotency_keys.ticket(key(fingerprint="0" * 64))
    assert store.idempotency_keys.ticket(key(owner="another")) is None
    assert store.idempotency_keys.ticket(key("another")) is None


def test_expired_keys_are_purged(store: Store) -> None:
    add_ticket(store, idempotency_key=key("old"))
    grow_old(store, DAY + 1)
    assert store.idempotency_keys.ticket(key("old")) is None
    ticket = add_ticket(store, idempotency_key=key("new"))
    assert store.idempotency_keys.purge(DAY) == 1
    assert store.idempotency_keys.purge(DAY) == 0
    assert store.idempotency_keys.ticket(key("new")) == ticket


def test_key_is_removed_with_its_ticket(store: Store) -> None:
    ticket = add_ticket(store, idempotency_key=key())
    store.tickets.request_cancel(ticket.id)
    store.tickets.remove(ticket.id)
    assert count(store) == 0
