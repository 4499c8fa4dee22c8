"""One elected reconciler wakes tickets that are due and that no worker holds."""

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from publisher.core.broker import Broker
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.services.wakeups import WakeQueue
from publisher.store import Store
from publisher.store.database import db_now, tickets, writing
from publisher.store.engine import open_engine
from publisher.store.fleet import Member
from publisher.store.limits import Limits
from tests.patience import PATIENCE
from tests.records import OWNER, add_owner, add_ticket, current, put_back
from tests.servers.process import free_port
from tests.servers.redis import RedisServer
from workers.reconciler import ROLE, Reconciler


class Queue(WakeQueue):
    """A real queue that also records the tickets that it sent."""

    def __init__(self, broker_url: str, waiting: threading.Condition | None = None) -> None:
        super().__init__(Broker(broker_url), timeout_seconds=1.0)
        self.sent: list[int] = []
        self.waiting = waiting or threading.Condition()
        self.closed = False

    def send(self, *ticket_ids: int) -> None:
        super().send(*ticket_ids)
        with self.waiting:
            self.sent.extend(ticket_ids)
            self.waiting.notify_all()

    def close(self) -> None:
        super().close()
        self.closed = True

    def wait_for(self, ticket_id: int) -> bool:
        with self.waiting:
            return self.waiting.wait_for(lambda: ticket_id in self.sent, timeout=20 * PATIENCE)


@pytest.fixture
def queue(redis: RedisServer) -> Iterator[Queue]:
    queue = Queue(redis.url)
    yield queue
    queue.close()


def overdue(store: Store) -> Ticket:
    ticket = add_ticket(store)
    put_back(store, ticket, wake_at=1)
    return ticket


def reconciler(
    store: Store, queue: WakeQueue, stop: threading.Event, holder: str = "a", *, seconds: float = 0.05
) -> Reconciler:
    return Reconciler(store, queue, Settings(reconcile_seconds=seconds), holder=holder, stop=stop)


pytestmark = pytest.mark.real


def test_turn_wakes_each_due_ticket_once(sqlite_store: Store, queue: Queue) -> None:
    due = [overdue(sqlite_store).id for _ in range(3)]
    add_ticket(sqlite_store)
    each = reconciler(sqlite_store, queue, threading.Event())
    assert each.turn() == 3
    assert queue.sent == due
    assert each.turn() == 0


def test_an_expired_image_is_withdrawn_and_its_ticket_woken(sqlite_store: Store, queue: Queue) -> None:
    add_owner(sqlite_store)
    stored = sqlite_store.accounts.add(
        owner=OWNER, name="lab", platform="memory", fields={"login": "anybody"}, sealed_secrets=b"sealed"
    )
    account = {"login": "anybody", "name": "lab"}
    ticket = add_ticket(sqlite_store, account=account, account_id=stored.id, expires=time.time() + 3600)
    claim = sqlite_store.leases.claim(ticket.id, "w", 60)
    assert claim
    sqlite_store.leases.published(claim, cloud_id="c-1", location=None)
    put_back(sqlite_store, ticket, expires=1, expiry_due=1)
    stop = threading.Event()
    each = reconciler(sqlite_store, queue, stop)
    thread = threading.Thread(target=each.run)
    thread.start()
    try:
        assert queue.wait_for(ticket.id)
    finally:
        stop.set()
        thread.join()
    assert current(sqlite_store, ticket).state is State.WITHDRAWING


def test_an_abandoned_ticket_is_woken(sqlite_store: Store, queue: Queue) -> None:
    ticket = add_ticket(sqlite_store)
    sqlite_store.leases.claim(ticket.id, "killed", 60)
    each = reconciler(sqlite_store, queue, threading.Event())
    assert each.turn() == 0
    put_back(sqlite_store, ticket, lease_until=1, wake_at=1)
    assert each.turn() == 1


def test_reconciler_survives_a_broker_outage_and_stops_with_the_worker(
    sqlite_store: Store, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = overdue(sqlite_store)
    stop, away = threading.Event(), Queue(f"redis://127.0.0.1:{free_port()}/0")
    warned = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "tickets stay queued until it is back" in record.getMessage():
                warned.set()

    watch = Watch()
    logging.getLogger("workers.reconciler").addHandler(watch)
    thread = threading.Thread(target=reconciler(sqlite_store, away, stop).run)
    thread.start()
    try:
        assert warned.wait(20 * PATIENCE)
        assert sqlite_store.tickets.due() == [ticket.id]
        away._broker = Broker(redis.url)  # the broker is back
        assert away.wait_for(ticket.id)
    finally:
        logging.getLogger("workers.reconciler").removeHandler(watch)
        stop.set()
        thread.join(20 * PATIENCE)
    assert not thread.is_alive()
    assert away.closed


def test_only_the_elected_reconciler_sends_messages(sqlite_store: Store, redis: RedisServer) -> None:
    """While one is elected, the others send nothing. When it stops, another one takes over."""
    waiting = threading.Condition()
    queues = [Queue(redis.url, waiting) for _ in range(3)]
    stops = [threading.Event() for _ in range(3)]
    threads = [
        # A term lasts three turns, so that the elected one does not lose its role on a busy machine.
        threading.Thread(target=reconciler(sqlite_store, queue, stop, holder=str(number), seconds=0.7).run)
        for number, (queue, stop) in enumerate(zip(queues, stops, strict=True))
    ]
    assert sqlite_store.leadership.acquire(ROLE, "1", 60)
    for thread in threads:
        thread.start()
    try:
        first = [overdue(sqlite_store).id for _ in range(5)]
        assert all(queues[1].wait_for(id) for id in first)
        assert [queue.sent for queue in queues] == [[], first, []]
        stops[1].set()
        threads[1].join(20 * PATIENCE)
        second = overdue(sqlite_store)
        with waiting:
            assert waiting.wait_for(lambda: second.id in queues[0].sent + queues[2].sent, timeout=20 * PATIENCE)
        assert [queues[0].sent, queues[2].sent].count([second.id]) == 1
    finally:
        for stop, thread in zip(stops, threads, strict=True):
            stop.set()
            thread.join(20 * PATIENCE)


def test_expired_idempotency_keys_are_purged_from_time_to_time(sqlite_store: Store, queue: Queue) -> None:
    stop, purged = threading.Event(), []
    each = reconciler(sqlite_store, queue, stop)
    purge = sqlite_store.idempotency_keys.purge

    def noted(seconds: float) -> int:
        purged.append(seconds)
        return purge(seconds)

    sqlite_store.idempotency_keys.purge = noted  # type: ignore[method-assign]
    thread = threading.Thread(target=each.run)
    thread.start()
    try:
        for _ in range(2):
            assert queue.wait_for(overdue(sqlite_store).id)
    finally:
        stop.set()
        thread.join(20 * PATIENCE)
    assert purged == [86400.0]


def test_files_left_by_an_upload_are_deleted(sqlite_store: Store, queue: Queue, tmp_path: Path) -> None:
    left = tmp_path / ".incoming" / "left"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    settings = Settings(reconcile_seconds=0.05, image_root=tmp_path)
    stop = threading.Event()
    due = overdue(sqlite_store)
    thread = threading.Thread(target=Reconciler(sqlite_store, queue, settings, holder="a", stop=stop).run)
    thread.start()
    try:
        assert queue.wait_for(due.id)
    finally:
        stop.set()
        thread.join(10 * PATIENCE)
    assert not left.exists()


def test_reconciler_continues_after_a_failed_turn(
    sqlite_store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = overdue(sqlite_store)
    stop = threading.Event()
    each = reconciler(sqlite_store, queue, stop)
    turn, turns = each.turn, count()

    def fails_at_first() -> int:
        if next(turns) == 0:
            raise AttributeError("a mistake in a client library")
        return turn()

    monkeypatch.setattr(each, "turn", fails_at_first)
    thread = threading.Thread(target=each.run)
    thread.start()
    try:
        assert queue.wait_for(ticket.id)
    finally:
        stop.set()
        thread.join(20 * PATIENCE)
    assert not thread.is_alive()


MEMBER = Member("w1", "host", 1, "w1@host", "0.1.0", concurrency=2)


@pytest.mark.parametrize(
    ("members", "woken"),
    [([MEMBER], 2), ([], 0), ([MEMBER, dataclasses.replace(MEMBER, name="w2", concurrency=1)], 3)],
    ids=["two threads", "no worker", "three threads"],
)
def test_lost_messages_are_sent_again_soon_if_threads_are_free(
    sqlite_store: Store, queue: Queue, members: list[Member], woken: int
) -> None:
    """Without free threads, these tickets would not be woken again for minutes."""
    waiting = [add_ticket(sqlite_store) for _ in range(5)]
    with writing(sqlite_store.engine) as connection:
        connection.execute(tickets.update().values(wakes=9, wake_at=db_now() + 300))
    for member in members:
        sqlite_store.fleet.join(member)
    each = reconciler(sqlite_store, queue, threading.Event())
    assert each.turn() == woken
    assert queue.sent == [ticket.id for ticket in waiting[:woken]], "the oldest"
    again = each.turn()
    assert queue.sent[woken:] == [ticket.id for ticket in waiting[woken : woken + again]], "not those once more"


def test_busy_worker_causes_no_early_wake(sqlite_store: Store, queue: Queue) -> None:
    taken, waiting = add_ticket(sqlite_store), add_ticket(sqlite_store)
    sqlite_store.fleet.join(dataclasses.replace(MEMBER, concurrency=1))
    assert sqlite_store.leases.claim(taken.id, MEMBER.name, 60)
    with writing(sqlite_store.engine) as connection:
        connection.execute(tickets.update().where(tickets.c.id == waiting.id).values(wakes=9, wake_at=db_now() + 300))
    assert reconciler(sqlite_store, queue, threading.Event()).turn() == 0


def test_user_without_a_free_slot_gets_no_early_wake(sqlite_url: str, queue: Queue) -> None:
    with closing(Store(open_engine(sqlite_url), wake_again_seconds=5.0, limits=Limits(user_uploads=1))) as store:
        taken = add_ticket(store)
        add_ticket(store)
        store.fleet.join(MEMBER)
        assert store.leases.claim(taken.id, MEMBER.name, 60)
        with writing(store.engine) as connection:
            connection.execute(tickets.update().where(tickets.c.id != taken.id).values(wakes=9, wake_at=db_now() + 300))
        assert reconciler(store, queue, threading.Event()).turn() == 0
