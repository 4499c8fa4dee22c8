"""Workers claim waiting tickets only while slots are free, and the oldest ticket first."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select

from publisher.core.errors import TooMany
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from publisher.store.database import reading, tickets
from publisher.store.engine import open_engine
from publisher.store.leases import Claim
from publisher.store.limits import Limits, QueueCapacity
from tests.patience import PATIENCE
from tests.records import add_ticket, put_back


@pytest.fixture
def limited(database_url: str) -> Iterator[Callable[..., Store]]:
    """Return a function that opens stores with limits on one database."""
    opened: list[Store] = []

    def another(**limits: int) -> Store:
        opened.append(Store(open_engine(database_url), limits=Limits(**limits)))
        return opened[-1]

    yield another
    for each in opened:
        each.close()


def take(store: Store, *which: Ticket) -> list[Claim | None]:
    return [store.leases.claim(each.id, "a", 60) for each in which]


def publish(store: Store, claim: Claim | None) -> None:
    assert claim
    store.leases.published(claim, cloud_id="x", location=None)


def test_account_has_a_limited_number_of_slots(limited: Callable[..., Store]) -> None:
    store = limited(account_uploads=2)
    first, second, third, fourth = (add_ticket(store) for _ in range(4))
    elsewhere = add_ticket(store, account={"login": "somebody else"})
    claims = take(store, first, second)
    assert all(claims)
    assert take(store, third, fourth) == [None, None]
    assert take(store, elsewhere) != [None]
    assert store.tickets.due() == []

    publish(store, claims[0])
    assert store.tickets.due() == [third.id], "woken by the reconciler, if by nobody else"
    assert claims[0]
    assert store.leases.next_waiting(claims[0]) == [third.id]
    assert take(store, fourth) == [None], "it is another's turn"
    assert take(store, third) != [None]
    publish(store, claims[1])
    assert take(store, fourth) != [None]


def test_oldest_tickets_get_the_slots(limited: Callable[..., Store]) -> None:
    store = limited(account_uploads=2)
    first, second, third = (add_ticket(store) for _ in range(3))
    assert take(store, third) == [None]
    assert all(take(store, second, first))


@pytest.mark.parametrize(("how", "next_ticket"), [("retry", 1), ("release", 0), ("failed", 1), ("cancelled", 1)])
def test_slot_is_freed_however_the_attempt_ends(limited: Callable[..., Store], how: str, next_ticket: int) -> None:
    store = limited(account_uploads=1)
    tickets = [add_ticket(store) for _ in range(3)]
    (claim,) = take(store, tickets[0])
    assert claim
    match how:
        case "retry":
            store.leases.retry(claim, delay_seconds=60, error="later")
        case "release":
            store.leases.release(claim, "handed back")
        case "failed":
            store.leases.failed(claim, error="no")
        case "cancelled":
            store.tickets.request_cancel(tickets[0].id)
            store.leases.cancelled(claim)
    waiting = tickets[next_ticket]
    assert store.leases.next_waiting(claim) == [waiting.id]
    assert store.tickets.due() == [waiting.id]
    assert take(store, waiting) != [None]


def test_all_free_slots_are_offered_to_waiting_tickets(limited: Callable[..., Store]) -> None:
    """Two uploads that end at the same moment must not wake the same ticket: a slot would stay free."""
    store = limited(account_uploads=3)
    made = [add_ticket(store) for _ in range(7)]
    claims = take(store, *made[:3])
    publish(store, claims[0])
    publish(store, claims[1])
    assert claims[1]
    assert store.leases.next_waiting(claims[1]) == [made[3].id, made[4].id]


def test_ticket_of_a_dead_worker_keeps_its_slot_and_is_taken_over(limited: Callable[..., Store]) -> None:
    store = limited(account_uploads=1)
    first, second = add_ticket(store), add_ticket(store)
    take(store, first)
    put_back(store, first, lease_until=1)
    assert take(store, second) == [None]
    assert take(store, first) != [None]


def test_clean_up_needs_no_slot(limited: Callable[..., Store]) -> None:
    store = limited(account_uploads=1)
    first, second = add_ticket(store), add_ticket(store)
    take(store, first)
    store.tickets.request_cancel(first.id)
    put_back(store, first, lease_until=1)
    assert all(take(store, second, first))


def test_user_at_the_limit_delays_no_other_user(limited: Callable[..., Store]) -> None:
    store = limited(account_uploads=3, user_uploads=1)
    first, second = (add_ticket(store, owner="greedy") for _ in range(2))
    third = add_ticket(store, owner="modest")
    elsewhere = add_ticket(store, owner="greedy", account={"login": "another"})
    (claim,) = take(store, first)
    assert take(store, second, elsewhere) == [None, None]
    assert take(store, third) != [None], "the older one in the account has no place as a user's"
    publish(store, claim)
    assert claim
    assert store.leases.next_waiting(claim) == [second.id]
    assert take(store, elsewhere) == [None]
    assert take(store, second) != [None]


def test_all_tickets_are_claimed_if_there_are_no_limits(limited: Callable[..., Store]) -> None:
    store = limited()
    assert all(take(store, *[add_ticket(store) for _ in range(9)]))


@pytest.mark.long
def test_racing_workers_never_exceed_the_slots(limited: Callable[..., Store]) -> None:
    """They wake each other as real workers do. All tickets end, and never are more claimed than there are slots."""
    workers = [limited(account_uploads=2, user_uploads=3) for _ in range(6)]
    store = workers[0]
    made = [
        add_ticket(store, owner=f"user{number % 3}", account={"login": f"login{number % 2}"}) for number in range(24)
    ]
    messages = [each.id for each in made]
    random.Random(1).shuffle(messages)  # noqa: S311  # no secret
    lock, most, stuck = threading.Lock(), [0], threading.Event()

    def work(mine: Store) -> None:
        while True:
            with lock:
                ticket_id = messages.pop(0) if messages else None
            if ticket_id is None:
                return
            claim = mine.leases.claim(ticket_id, "w", 60)
            if claim is None:
                continue
            going_on = select(func.count()).where(tickets.c.state == "publishing").group_by(tickets.c.cloud_account)
            with reading(mine.engine) as connection:
                counts = connection.execute(going_on).scalars().all()
            with lock:
                most[0] = max(most[0], *counts)
            stuck.wait(0.01)
            mine.leases.published(claim, cloud_id="x", location=None)
            with lock:
                messages.extend(mine.leases.next_waiting(claim))

    for _ in range(20):  # the reconciler's turns
        threads = [threading.Thread(target=work, args=(each,)) for each in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60 * PATIENCE)
        messages.extend(each.id for each in store.tickets.list() if each.state is State.QUEUED)
        if not messages:
            break
    assert {each.state for each in store.tickets.list()} == {State.PUBLISHED}
    assert most[0] == 2


# Waiting tickets ------------------------------------------------


def test_full_queue_accepts_no_more_tickets(limited: Callable[..., Store]) -> None:
    limits = {"queue": 3, "user_queue": 2}
    store = limited(**limits)
    first = add_ticket(store, owner="one")
    add_ticket(store, owner="one")
    with pytest.raises(TooMany, match="2 of your images are waiting to be published; try again later"):
        add_ticket(store, owner="one")
    add_ticket(store, owner="another")
    for each in (store, limited(**limits)):
        with pytest.raises(TooMany, match=r"^3 images are waiting"):
            add_ticket(each, owner="another")
    assert len(store.tickets.list()) == 3
    take(store, first)
    add_ticket(store, owner="another")
    with pytest.raises(TooMany, match=r"^3 images are waiting"):
        add_ticket(store, owner="one")


def test_tickets_of_another_process_are_counted_within_a_second(
    limited: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, another = limited(queue=3), limited(queue=3)
    add_ticket(store)
    add_ticket(another)
    add_ticket(another)
    monkeypatch.setattr("publisher.store.limits._COUNT_AGAIN_SECONDS", 0.0)
    with pytest.raises(TooMany):
        add_ticket(store)


@pytest.mark.parametrize("limits", [Limits(queue=2), Limits(user_queue=2)])
def test_tickets_of_transactions_that_have_not_ended_are_counted(sqlite_store: Store, limits: Limits) -> None:
    capacity = QueueCapacity(limits)
    with reading(sqlite_store.engine) as connection:
        with capacity.room() as first:
            assert [first(connection, "root") for _ in range(2)] == [None, None]
            with capacity.room() as second:
                assert isinstance(second(connection, "root"), TooMany)
        # It was rolled back: the store has no tickets.
        with capacity.room() as third:
            assert third(connection, "root") is None


def test_counting_reads_only_an_index(sqlite_store: Store) -> None:
    """Counting must be quick with a hundred thousand tickets."""
    waiting = "EXPLAIN QUERY PLAN SELECT id FROM tickets WHERE state = 'queued'"
    with reading(sqlite_store.engine) as connection:
        for whose in ("", " AND owner = 'root'"):
            plan = str(connection.exec_driver_sql(f"{waiting}{whose} LIMIT 1 OFFSET 9999").all())
            assert "USING COVERING INDEX" in plan, plan
