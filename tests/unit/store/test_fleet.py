"""One process at a time has a role, on each kind of database."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from publisher.store import Store
from publisher.store.database import db_now, elections, writing
from tests.patience import PATIENCE


def run_out(store: Store, role: str) -> None:
    with writing(store.engine) as connection:
        connection.execute(update(elections).where(elections.c.office == role).values(until=db_now() - 0.001))


def test_the_holder_keeps_its_role_by_renewing(store: Store) -> None:
    assert store.leadership.acquire("cleaner", "a", 60)
    assert not store.leadership.acquire("cleaner", "b", 60)
    assert store.leadership.acquire("cleaner", "a", 60)
    assert not store.leadership.acquire("cleaner", "b", 60)


def test_roles_are_independent(store: Store) -> None:
    assert store.leadership.acquire("cleaner", "a", 60)
    assert store.leadership.acquire("cook", "b", 60)


def test_an_expired_role_passes_to_another_process(store: Store) -> None:
    assert store.leadership.acquire("cleaner", "a", 60)
    run_out(store, "cleaner")
    assert store.leadership.acquire("cleaner", "b", 60)
    assert not store.leadership.acquire("cleaner", "a", 60)


@pytest.mark.long
def test_one_of_many_candidates_is_elected(stores: Callable[[], Store]) -> None:
    candidates = [stores() for _ in range(8)]
    for round_ in range(5):
        start = threading.Barrier(8)

        def stand(number: int, role: str = f"role-{round_}", start: threading.Barrier = start) -> bool:
            start.wait(30 * PATIENCE)
            return candidates[number].leadership.acquire(role, str(number), 60)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(stand, range(8))) == 1
        run_out(candidates[0], f"role-{round_}")
        start.reset()
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(stand, range(8))) == 1


def test_a_resigned_role_is_free_at_once(store: Store) -> None:
    assert store.leadership.acquire("cleaner", "a", 60)
    store.leadership.resign("cleaner", "b")
    assert not store.leadership.acquire("cleaner", "b", 60)
    store.leadership.resign("cleaner", "a")
    assert store.leadership.acquire("cleaner", "b", 60)
