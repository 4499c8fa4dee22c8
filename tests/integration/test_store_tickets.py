"""Tickets as callers and the reconciler see them, on each kind of database."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
from sqlalchemy import select, text, update

from publisher.core.errors import Cancelled, Conflict, LeaseLost, NotFound
from publisher.core.ticket import FINAL, State, Ticket
from publisher.store import AccountGiven, Store
from publisher.store.database import db_now, images, reading, tickets, tombstones, writing
from publisher.store.leases import Claim
from tests.conftest import open_store
from tests.patience import PATIENCE
from tests.records import add_ticket, current, put_back, words
from tests.servers.postgres import PostgresServer


def claim(store: Store, ticket: Ticket, worker: str = "a", seconds: float = 60) -> Claim:
    claimed = store.leases.claim(ticket.id, worker, seconds)
    assert claimed is not None
    return claimed


def in_state(store: Store, state: State) -> Ticket:
    ticket = add_ticket(store)
    match state:
        case State.PUBLISHING:
            claim(store, ticket)
        case State.CANCELLING:
            claim(store, ticket)
            store.tickets.request_cancel(ticket.id)
        case State.PUBLISHED:
            store.leases.published(claim(store, ticket), cloud_id="c", location=None)
        case State.FAILED:
            store.leases.failed(claim(store, ticket), error="no")
        case State.CANCELLED:
            store.tickets.request_cancel(ticket.id)
        case State.WITHDRAWING | State.WITHDRAWN:
            store.leases.published(claim(store, ticket), cloud_id="c", location=None)
            store.tickets.request_withdrawal(ticket.id, AccountGiven(ticket.account, b"sealed"))
            if state is State.WITHDRAWN:
                store.leases.withdrawn(claim(store, ticket), words="Withdrawn")
    assert current(store, ticket).state is state
    return ticket


# Cancelling -----------------------------------------------------


@pytest.mark.parametrize(
    ("state", "becomes"),
    [
        (State.QUEUED, State.CANCELLED),
        (State.PUBLISHING, State.CANCELLING),
        (State.CANCELLING, State.CANCELLING),
    ],
)
def test_cancel_ends_a_queued_ticket_and_marks_a_claimed_one(store: Store, state: State, becomes: State) -> None:
    ticket = in_state(store, state)
    assert store.tickets.request_cancel(ticket.id).state is becomes
    assert current(store, ticket).state is becomes


@pytest.mark.parametrize("state", sorted(FINAL))
def test_ended_ticket_cannot_be_cancelled(store: Store, state: State) -> None:
    ticket = in_state(store, state)
    before = current(store, ticket)
    with pytest.raises(Conflict, match=f"has ended already: {state}"):
        store.tickets.request_cancel(ticket.id)
    assert current(store, ticket) == before


def test_cancel_of_an_unknown_ticket_raises_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no ticket 999"):
        store.tickets.request_cancel(999)


def test_ticket_cancelled_before_any_upload_keeps_its_secrets(store: Store) -> None:
    ticket = store.tickets.request_cancel(add_ticket(store).id)
    assert ticket.sealed_secrets is not None, "it may be tried again"
    assert ticket.finished is not None
    assert words(store, ticket) == ["Accepted", "Cancelled before any upload"]
    assert store.tickets.due() == []


def retried(store: Store, marks: list[str]) -> Ticket:
    """Return a ticket between two attempts. The first one planned an image and set these marks on it."""
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.leases.plan(held, "cloud-1")
    for mark in marks:
        store.leases.mark(held, "cloud-1", mark)
    store.leases.retry(held, delay_seconds=300, error="Glance is away")
    return ticket


@pytest.mark.parametrize("marks", [[], ["present"]])
def test_cancel_between_two_attempts_cleans_up_after_the_first(store: Store, marks: list[str]) -> None:
    ticket = retried(store, marks)
    cancelled = store.tickets.request_cancel(ticket.id)
    assert cancelled.state is State.CANCELLING
    assert cancelled.sealed_secrets is not None
    assert store.tickets.due() == [ticket.id], "the delay of the retry is not waited for"
    assert claim(store, ticket).ticket.state is State.CANCELLING


def test_a_cancel_between_two_attempts_ends_a_ticket_that_left_nothing(store: Store) -> None:
    ticket = retried(store, ["present", "gone"])
    assert store.tickets.request_cancel(ticket.id).state is State.CANCELLED


@pytest.mark.long
def test_simultaneous_claim_and_cancel_know_of_each_other(stores: Callable[[], Store]) -> None:
    caller, worker = stores(), stores()
    for _ in range(15):
        ticket = add_ticket(caller)
        start = threading.Barrier(2)

        def cancel(ticket: Ticket = ticket, start: threading.Barrier = start) -> Ticket:
            start.wait(30 * PATIENCE)
            return caller.tickets.request_cancel(ticket.id)

        def take(ticket: Ticket = ticket, start: threading.Barrier = start) -> Claim | None:
            start.wait(30 * PATIENCE)
            return worker.leases.claim(ticket.id, "a", 60)

        with ThreadPoolExecutor(2) as pool:
            cancelling, claiming = pool.submit(cancel), pool.submit(take)
            cancelled, claimed = cancelling.result(60), claiming.result(60)
        assert cancelled.state is (State.CANCELLED if claimed is None else State.CANCELLING)
        if claimed is not None:
            with pytest.raises(Cancelled):
                worker.leases.check(claimed)


@pytest.mark.long
def test_only_one_of_a_simultaneous_cancel_and_end_wins(stores: Callable[[], Store]) -> None:
    caller, worker = stores(), stores()
    for _ in range(15):
        ticket = add_ticket(caller)
        held = claim(worker, ticket)
        start = threading.Barrier(2)

        def cancel(ticket: Ticket = ticket, start: threading.Barrier = start) -> bool:
            start.wait(30 * PATIENCE)
            try:
                caller.tickets.request_cancel(ticket.id)
            except Conflict:
                return False
            return True

        def end(held: Claim = held, start: threading.Barrier = start) -> bool:
            start.wait(30 * PATIENCE)
            try:
                worker.leases.published(held, cloud_id="c", location=None)
            except Cancelled:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            cancelling, ending = pool.submit(cancel), pool.submit(end)
            assert cancelling.result(60) is not ending.result(60)
        assert current(caller, ticket).state is (State.PUBLISHED if ending.result() else State.CANCELLING)


# Waking ---------------------------------------------------------


def wake_delay(store: Store, ticket: Ticket) -> float:
    query = select(tickets.c.wake_at - db_now()).where(tickets.c.id == ticket.id)
    with reading(store.engine) as connection:
        return float(connection.execute(query).scalar_one())


def test_waiting_ticket_is_woken_at_growing_intervals(store: Store) -> None:
    """Otherwise a queue of an hour would fill the broker with copies of its messages."""
    ticket = add_ticket(store)
    delays = []
    for _ in range(12):
        store.tickets.woken(ticket.id, sent=True)
        delays.append(round(wake_delay(store, ticket)))
    assert delays == [5, 10, 25, 50, 85, 130, 185, 250, 300, 300, 300, 300]


def test_failed_send_is_repeated_at_once_and_resets_the_interval(store: Store) -> None:
    ticket = add_ticket(store)
    for _ in range(5):
        store.tickets.woken(ticket.id, sent=True)
    assert store.tickets.due() == []
    store.tickets.woken(ticket.id, sent=False)
    assert store.tickets.due() == [ticket.id]
    store.tickets.woken(ticket.id, sent=True)
    assert round(wake_delay(store, ticket)) == 5


def test_forgotten_and_abandoned_tickets_are_due(store: Store) -> None:
    new = add_ticket(store)
    forgotten = add_ticket(store)
    put_back(store, forgotten, wake_at=20)
    held = add_ticket(store)
    claim(store, held)
    abandoned = add_ticket(store)
    claim(store, abandoned)
    put_back(store, abandoned, lease_until=30, wake_at=30)
    later = add_ticket(store)
    store.leases.retry(claim(store, later), delay_seconds=300, error="e")
    for state in FINAL:
        put_back(store, in_state(store, state), wake_at=99)
    # Its message is overdue, but a worker holds it.
    stale = add_ticket(store)
    claim(store, stale)
    put_back(store, stale, wake_at=10)
    assert store.tickets.due() == [abandoned.id, forgotten.id]
    assert store.tickets.due(limit=1) == [abandoned.id]
    assert new.id not in store.tickets.due()


# Reading --------------------------------------------------------


def test_tickets_are_listed_and_counted(store: Store) -> None:
    first = add_ticket(store)
    second = add_ticket(store, appliance_id=5)
    third = add_ticket(store, owner="guest")
    claim(store, second)
    assert [ticket.id for ticket in store.tickets.list()] == [first.id, second.id, third.id]
    assert [ticket.id for ticket in store.tickets.list(owner="root")] == [first.id, second.id]
    assert [ticket.id for ticket in store.tickets.list(owner="root", appliance_id=5)] == [second.id]
    assert store.tickets.list(owner="nobody") == []
    assert store.publications.counts() == dict.fromkeys(State, 0) | {State.QUEUED: 2, State.PUBLISHING: 1}
    assert store.tickets.get(999) is None


def test_ticket_is_stored_unchanged(store: Store) -> None:
    """Any text and numbers of any size are kept: JSON and BLOB columns do not alter them."""
    values = {
        "account": {"login": "jörg \U0001f600", "port": 5000, "nested": {"list": [1, None, True]}},
        "sealed_secrets": bytes(range(256)),
        "target": {"displayName": 'a "quoted" <name>\t'},
        "image_size": 1 << 45,
        "image_id": 1 << 40,
        "name": "n" * 255,
    }
    ticket = add_ticket(store, **values)
    assert current(store, ticket) == ticket
    assert (ticket.account, ticket.sealed_secrets, ticket.target) == (
        *(values["account"], values["sealed_secrets"]),
        values["target"],
    )
    assert ticket.progress.total == 1 << 45


# Many at once ---------------------------------------------------


@pytest.mark.long
def test_fifty_tickets_are_written_to_at_once(stores: Callable[[], Store]) -> None:
    """SQLite has one writer at a time: they take turns, and none gives up ('database is locked')."""
    processes = [stores() for _ in range(4)]
    made = [add_ticket(processes[0], image_size=20) for _ in range(50)]
    start = threading.Barrier(25)

    def work(number: int) -> None:
        store = processes[number % 4]
        if number < 25:
            start.wait(60 * PATIENCE)
        held = claim(store, made[number], f"w{number}")
        for sent in range(1, 21):
            store.leases.renew(held, 60, sent=sent)
            if sent % 10 == 0:
                store.tickets.list()
        store.leases.published(held, cloud_id=f"c{number}", location=None)
        with pytest.raises(LeaseLost):
            store.leases.renew(held, 60, sent=0)

    with ThreadPoolExecutor(25) as pool:
        list(pool.map(work, range(50)))
    assert processes[0].publications.counts()[State.PUBLISHED] == 50
    assert {ticket.progress.percentage for ticket in processes[0].tickets.list()} == {100}


# Deleting -------------------------------------------------------


@pytest.fixture
def two(postgres: PostgresServer, postgres_template: str) -> Iterator[tuple[Store, Store]]:
    """The stores of two processes on one PostgreSQL. In SQLite, with one writer at a time, they could not collide."""
    url = postgres.fresh(postgres_template)
    with closing(open_store(url)) as store, closing(open_store(url)) as other:
        yield store, other
    postgres.drop(url)


@pytest.mark.real
@pytest.mark.parametrize("delete", ["one", "all"])
def test_retry_during_a_deletion_keeps_the_ticket(two: tuple[Store, Store], delete: str) -> None:
    store, other = two
    ticket = failed_with_leftover(store)
    remove = partial(store.tickets.remove, ticket.id)
    remove_all = partial(store.tickets.remove_all, ticket.owner, ticket.appliance_id)
    with ThreadPoolExecutor(1) as threads:
        with writing(other.engine) as connection:
            connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(state=State.QUEUED))
            deleted = threads.submit(remove if delete == "one" else remove_all)
            wait_for_a_lock(other)
        with pytest.raises(Conflict, match="cancel it first"):
            deleted.result(20)
    assert current(store, ticket).state is State.QUEUED
    with reading(store.engine) as connection:
        assert connection.execute(select(tombstones)).all() == [], "it was not deleted"
    store.leases.failed(claim(store, ticket), error="again")
    store.tickets.remove(ticket.id)
    assert store.tickets.get(ticket.id) is None


@pytest.mark.real
def test_ticket_created_while_all_are_deleted_stays(two: tuple[Store, Store]) -> None:
    store, other = two
    old = failed_with_leftover(store)
    with ThreadPoolExecutor(1) as threads:
        with writing(other.engine) as connection:
            connection.execute(select(tickets.c.id).where(tickets.c.id == old.id).with_for_update())
            deleted = threads.submit(store.tickets.remove_all, old.owner, old.appliance_id)
            wait_for_a_lock(other)
            new = add_ticket(other)
        deleted.result(20)
    assert [each.id for each in store.tickets.list()] == [new.id]
    with reading(store.engine) as connection:
        assert [row.cloud_id for row in connection.execute(select(tombstones))] == ["left"]


def failed_with_leftover(store: Store) -> Ticket:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.leases.plan(held, "left")
    store.leases.failed(held, error="no")
    return ticket


def wait_for_a_lock(store: Store) -> None:
    """Return when a statement waits for a lock of another transaction."""
    deadline = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < deadline:
        with reading(store.engine) as connection:
            waiting = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if connection.execute(waiting).scalar():
                return
    raise AssertionError("no statement waits for a lock")


def test_retry_uses_the_present_size_of_the_image(store: Store) -> None:
    ticket = in_state(store, State.FAILED)
    with writing(store.engine) as connection:
        connection.execute(update(images).where(images.c.id == ticket.image_id).values(size=4000))
    assert store.tickets.retry(ticket.id).progress.total == 4000
