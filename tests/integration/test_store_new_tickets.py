"""Tickets that are created together: each gets its own verdict, whatever happens to the others and to their writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import SQLAlchemyError, StatementError

from publisher.core.errors import Conflict, TooMany
from publisher.core.image import ImageState
from publisher.core.ticket import State, Ticket, ticket_uri
from publisher.store import Store
from publisher.store.database import Actor, history, images, reading, writing
from publisher.store.engine import open_engine
from publisher.store.limits import Limits
from publisher.store.new_tickets import (
    BasisWanted,
    IdempotencyKey,
    KeyTaken,
    NewTicket,
    NewTickets,
    TicketWanted,
    claim_keys,
)
from tests.patience import PATIENCE
from tests.records import add_ticket, create_ticket, remove_image

LONG = 6 * PATIENCE
FIRST = "the first one"


def key(name: str) -> IdempotencyKey:
    return IdempotencyKey("root", name, ("f" * 64,), 86400.0)


@dataclass(frozen=True)
class Create:
    """A ticket that is to be created, alone by a call or together with others."""

    store: Store
    wanted: TicketWanted

    def __call__(self) -> Ticket:
        return create_ticket(self.store, self.wanted.new, self.wanted.key)


def creating(store: Store, name: str = "an image", *, taking: str = "", **values: Any) -> Create:
    """Describe a ticket, with the key `taking`."""
    plain: dict[str, Any] = {
        "owner": "root", "appliance_id": 4, "image_id": 1, "image_size": 1000, "platform": "memory",
        "account": {"login": "anybody"}, "sealed_secrets": b"sealed", "target": {"displayName": name},
    }  # fmt: skip
    new = NewTicket(name=name, **(plain | values))
    return Create(store, TicketWanted(new, key(taking) if taking else None, store.actor))


class Together:
    """Creates tickets in one group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        """The number of tickets in each transaction."""
        write = NewTickets._write

        def note(new_tickets: Any, connection: Any, group: Sequence[Any], *others: Any) -> Any:
            self.groups.append(len(group))
            return write(new_tickets, connection, group, *others)

        monkeypatch.setattr(NewTickets, "_write", note)

    def create(self, store: Store, *creates: Create) -> list[Future[Ticket]]:
        """Create a first ticket and, in one more transaction, all the others in this order. Return all."""
        group = [each.wanted for each in creates]
        outcomes = [
            *store.new_tickets.create_all([creating(store, FIRST).wanted]),
            *store.new_tickets.create_all(group),
        ]
        return [self._ended(each) for each in outcomes]

    @staticmethod
    def _ended(outcome: Ticket | BaseException) -> Future[Ticket]:
        future: Future[Ticket] = Future()
        if isinstance(outcome, Ticket):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
        return future


@pytest.fixture
def other(stores: Callable[[], Store]) -> Store:
    """Another store on the same database, like that of another process. Has image 1 and a ticket."""
    other = stores()
    add_ticket(other)
    return other


@pytest.fixture
def together(other: Store, monkeypatch: pytest.MonkeyPatch) -> Together:
    return Together(monkeypatch)


def assert_stored(store: Store, *made: Future[Ticket]) -> None:
    """Check that these tickets are stored as they were returned, each with its history, and none beside them and the
    one of the fixture."""
    found = store.tickets.list()
    assert found[1:] == sorted((each.result() for each in made), key=lambda each: each.id)
    for each in found:
        assert [(entry.to_state, entry.words) for entry in store.tickets.history(each.id)] == [("queued", "Accepted")]
    with reading(store.engine) as connection:
        assert connection.execute(select(func.count()).select_from(history)).scalar_one() == len(found)


# Verdicts -------------------------------------------------------


def test_a_group_is_created_in_its_order(together: Together, store: Store) -> None:
    names = [f"image {number}" for number in range(5)]
    made = together.create(store, *[creating(store, name) for name in names])
    assert together.groups == [1, 5]
    assert [each.name for each in store.tickets.list()[1:]] == [FIRST, *names]
    assert_stored(store, *made)
    assert store.tickets.due() == [], "their workers are being woken"


def test_each_of_a_group_gets_its_own_verdict(together: Together, store: Store, other: Store) -> None:
    used = creating(other, taking="used")()
    unready = add_ticket(other, image_id=2)
    with writing(other.engine) as connection:
        connection.execute(images.update().where(images.c.id == 2).values(state=ImageState.QUEUED))
    first, *verdicts = together.create(
        store,
        creating(store, "one"),
        creating(store, image_id=99),
        creating(store, image_id=2),
        creating(store, taking="used"),
        creating(store, "two", taking="new"),
    )
    assert together.groups[-1] == 5
    one, missing, not_ready, taken, two = verdicts
    assert [type(each.exception()) for each in (missing, not_ready, taken)] == [Conflict, Conflict, KeyTaken]
    assert str(missing.exception()) == "image 99 was deleted, or is not ready any more"
    assert store.idempotency_keys.ticket(key("used")) == used
    assert store.idempotency_keys.ticket(key("new")) == two.result()
    for each in (used, unready):
        store.tickets.request_cancel(each.id)
        store.tickets.remove(each.id)
    assert_stored(store, first, one, two)


def test_equal_keys_in_a_group_make_one_ticket(together: Together, store: Store) -> None:
    first, one, *rest = together.create(store, *[creating(store, taking="same") for _ in range(4)])
    assert together.groups == [1, 4]
    assert [type(each.exception()) for each in rest] == [KeyTaken] * 3
    assert store.idempotency_keys.ticket(key("same")) == one.result()
    assert_stored(store, first, one)


def test_a_key_can_be_used_by_the_next_if_the_first_gets_no_ticket(together: Together, store: Store) -> None:
    first, refused, made = together.create(
        store, creating(store, image_id=99, taking="same"), creating(store, taking="same")
    )
    assert isinstance(refused.exception(), Conflict)
    assert store.idempotency_keys.ticket(key("same")) == made.result()
    assert_stored(store, first, made)


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.real)], indirect=True)
def test_a_key_that_another_process_is_taking_makes_no_second_ticket(
    together: Together, store: Store, other: Store
) -> None:
    """On SQLite another process cannot write at the same time."""
    theirs = other.tickets.list()[0]
    with ThreadPoolExecutor(1) as pool:
        with writing(other.engine) as connection:
            assert claim_keys(connection, {theirs.id: key("same")}, time.time()) == {theirs.id}
            late = pool.submit(creating(store, taking="same"))
            wait_for_a_lock(store)
        with pytest.raises(KeyTaken):
            late.result(LONG)
    assert store.idempotency_keys.ticket(key("same")) == theirs
    assert_stored(store)


def wait_for_a_lock(store: Store) -> None:
    """Return when a statement waits for a lock of another transaction."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        with reading(store.engine) as connection:
            if connection.execute(waiting).scalar():
                return
    raise AssertionError("no statement waits for a lock")


@pytest.mark.parametrize("limits", [Limits(queue=4), Limits(user_queue=4), Limits(queue=4, user_queue=4)])
def test_a_group_does_not_overfill_the_queue(together: Together, database_url: str, limits: Limits) -> None:
    store = Store(open_engine(database_url), limits=limits)
    try:
        first, *verdicts = together.create(store, creating(store, image_id=99), *[creating(store) for _ in range(4)])
        assert together.groups == [1, 5]
        assert [type(each.exception()) for each in verdicts] == [Conflict, type(None), type(None), TooMany, TooMany]
        assert_stored(store, first, *verdicts[1:3])
        store.tickets.request_cancel(first.result().id)
        creating(store)()
        with pytest.raises(TooMany):
            creating(store)()
    finally:
        store.close()


def test_only_the_user_with_too_many_tickets_is_refused(together: Together, database_url: str) -> None:
    store = Store(open_engine(database_url), limits=Limits(user_queue=3))
    try:
        owners = ["one", "two", "one", "two", "one", "one", "two"]
        _, *verdicts = together.create(store, *[creating(store, owner=owner) for owner in owners])
        assert [each.exception() is None for each in verdicts] == [True] * 5 + [False, True]
    finally:
        store.close()


def test_each_ticket_of_a_group_has_the_audit_entry_of_its_actor(together: Together, store: Store) -> None:
    actors = [Actor(f"user {number}", "api", f"127.0.0.{number}", f"request {number}") for number in range(1, 4)]
    creates = [creating(store.acting(each), each.login) for each in actors]
    refused = creating(store.acting(Actor("nobody", "api")), image_id=99)
    _, *made = together.create(store, creates[0], creating(store, "without actor"), refused, *creates[1:])
    assert together.groups == [1, 5]
    tickets = [each.result() for each in (made[0], *made[3:])]
    assert [(each.actor, each.action, each.object, each.detail) for each in reversed(store.audit.latest())] == [
        (actor, "ticket.create", ticket_uri("root", 4, 1, ticket.id), f"to memory, as '{actor.login}'")
        for actor, ticket in zip(actors, tickets, strict=True)
    ]


def test_what_several_requests_need_to_know_is_read_together(store: Store, other: Store) -> None:
    add_ticket(other, image_id=2)
    creating(store, taking="used")()
    group = [
        BasisWanted("root", 4, 1),
        BasisWanted("root", 4, 2, key("used")),
        BasisWanted("root", 4, 1, key("new")),
        BasisWanted("root", 5, 1),
        BasisWanted("nobody", 4, 1, replace(key("used"), owner="nobody")),
        BasisWanted("root", 4, 99),
    ]
    together = store.new_tickets.bases(group)
    assert together == [store.new_tickets.bases([each])[0] for each in group]
    assert [(each.image is not None, each.key_known) for each in together] == [
        (True, False), (True, True), (True, False), (False, False), (False, False), (False, False),
    ]  # fmt: skip


# Failures -------------------------------------------------------


def test_a_ticket_that_cannot_be_written_fails_alone(together: Together, store: Store) -> None:
    first, one, bad, two = together.create(
        store, creating(store, "one"), creating(store, sealed_secrets=object()), creating(store, "two")
    )
    assert sorted(together.groups) == [1, 1, 1, 1, 3], "after the group has failed, each of it tries alone"
    assert isinstance(bad.exception(), StatementError | TypeError)
    assert_stored(store, first, one, two)


def test_nobody_gets_a_ticket_if_the_commit_fails(together: Together, store: Store) -> None:
    def fail(connection: Any) -> None:
        if together.groups[-1] == 3:
            raise OSError("the disk is full")

    event.listen(store.engine, "commit", fail)
    try:
        first, *rest = together.create(store, *[creating(store, taking=name) for name in ("a", "b", "c")])
    finally:
        event.remove(store.engine, "commit", fail)
    assert [str(each.exception()) for each in rest] == ["the disk is full"] * 3
    assert together.groups == [1, 3], "after a commit nobody may try again: the tickets could be there"
    assert_stored(store, first)
    assert [store.idempotency_keys.ticket(key(name)) for name in ("a", "b", "c")] == [None] * 3
    again = creating(store, taking="a")()
    assert store.idempotency_keys.ticket(key("a")) == again


def test_each_gets_its_ticket_although_the_writing_of_all_is_stopped(
    together: Together, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = NewTickets._write

    def stop(new_tickets: Any, connection: Any, group: Sequence[Any], *others: Any) -> Any:
        verdicts = write(new_tickets, connection, group, *others)
        if len(group) == 3:
            raise SystemExit
        return verdicts

    monkeypatch.setattr(NewTickets, "_write", stop)
    made = together.create(store, *[creating(store, name) for name in ("one", "two", "three")])
    assert_stored(store, *made)


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.real)], indirect=True)
def test_tickets_are_created_over_another_connection_if_the_first_is_lost(
    together: Together, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = NewTickets._write

    def lose(new_tickets: Any, connection: Any, group: Sequence[Any], *others: Any) -> Any:
        if len(group) == 2:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with reading(store.engine) as another:
                another.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        return write(new_tickets, connection, group, *others)

    monkeypatch.setattr(NewTickets, "_write", lose)
    made = together.create(store, creating(store, "one"), creating(store, "two"))
    assert_stored(store, *made)


def test_a_deleted_image_is_published_by_none_of_a_group(together: Together, store: Store, other: Store) -> None:
    remove_image(other, 1)
    made = together.create(store, *[creating(store) for _ in range(3)])
    assert [type(each.exception()) for each in made] == [Conflict] * 4
    assert_stored(store)
    assert [each.state for each in store.tickets.list()] == [State.QUEUED]


@pytest.mark.long
def test_no_ticket_waits_twice_for_a_locked_store(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the group nor alone after it."""
    monkeypatch.setattr("publisher.store.database._BUSY_SECONDS", 1.5)
    store, other = Store(open_engine(sqlite_url)), Store(open_engine(sqlite_url))
    try:
        add_ticket(store)
        with writing(other.engine), ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            group = [creating(store).wanted for _ in range(4)]
            errors = pool.submit(store.new_tickets.create_all, group).result(LONG)
            took = time.monotonic() - began
        assert len(store.tickets.list()) == 1
    finally:
        store.close()
        other.close()
    assert all(isinstance(each, SQLAlchemyError) for each in errors), errors
    assert took < 1.5 * PATIENCE


@pytest.mark.long
def test_whoever_waits_too_long_for_the_store_gets_no_ticket(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite, one transaction at a time can write. PostgreSQL makes nobody wait."""
    monkeypatch.setattr("publisher.store.database._BUSY_SECONDS", 0.2)
    store = Store(open_engine(sqlite_url))
    add_ticket(store)
    began = threading.Event()
    go_on = threading.Event()
    write = NewTickets._write

    def hold(new_tickets: Any, connection: Any, group: Sequence[Any], *others: Any) -> Any:
        began.set()
        assert go_on.wait(LONG)
        return write(new_tickets, connection, group, *others)

    monkeypatch.setattr(NewTickets, "_write", hold)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(creating(store))
        assert began.wait(LONG)
        with pytest.raises(SQLAlchemyError):
            creating(store)()
        go_on.set()
    assert_stored(store, first)
    store.close()
