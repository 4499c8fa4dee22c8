"""The store's lists for operators: workers, statistics and the audit log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import insert, update

from publisher.core.errors import NotFound, Reason
from publisher.core.ticket import State
from publisher.store import Store
from publisher.store.database import Actor, db_now, notifications, tickets, workers, writing
from publisher.store.fleet import Member, WorkerState
from publisher.store.statistics import NotificationBacklog, Queue, Throughput
from tests.records import add_ticket, put_back

ONE = Member("here-1", "here", 1, "publisher@here", "0.1.0", 4)
OTHER = Member("there-2", "there", 2, "publisher@there", "0.1.0", 2)


def silent(store: Store, name: str, seconds: float) -> None:
    with writing(store.engine) as connection:
        connection.execute(update(workers).where(workers.c.name == name).values(seen=db_now() - seconds))


def test_workers_are_listed_with_their_tickets_and_their_silence(store: Store) -> None:
    assert not store.fleet.beat(ONE)
    assert not store.fleet.beat(OTHER)
    claim = store.leases.claim(add_ticket(store).id, ONE.name, 60)
    assert claim
    silent(store, OTHER.name, 100)
    one, other = store.fleet.workers()
    assert (one.member, one.ticket_ids, one.alive(30)) == (ONE, [claim.ticket.id], True)
    assert (other.member, other.ticket_ids, other.alive(30)) == (OTHER, [], False)
    assert other.silent_seconds == pytest.approx(100, abs=5)

    store.fleet.beat(OTHER)
    assert all(each.alive(30) for each in store.fleet.workers())
    store.fleet.stopped(OTHER.name)
    assert [each.alive(30) for each in store.fleet.workers() if each.member == OTHER] == [False]


def test_heartbeat_tells_a_worker_to_drain(store: Store) -> None:
    store.fleet.beat(ONE)
    store.fleet.ask_to_drain(ONE.name)
    assert store.fleet.beat(ONE)
    assert store.fleet.workers()[0].drain
    store.fleet.stopped(ONE.name)
    for name in (ONE.name, "nobody"):
        with pytest.raises(NotFound, match=name):
            store.fleet.ask_to_drain(name)


def test_restarted_worker_replaces_its_entry(store: Store) -> None:
    store.fleet.join(ONE)
    store.fleet.ask_to_drain(ONE.name)
    store.fleet.stopped(ONE.name)
    newer = replace(ONE, version="0.2.0", concurrency=8)
    store.fleet.join(newer)
    (found,) = store.fleet.workers()
    assert (found.member, found.drain, found.stopped) == (newer, False, None)


def test_worker_is_alive_draining_silent_or_stopped(store: Store) -> None:
    def state() -> WorkerState:
        return store.fleet.workers()[0].state(30)

    store.fleet.join(ONE)
    assert state() is WorkerState.ALIVE
    assert store.fleet.beat(ONE, draining=True), "as if it had been asked"
    assert state() is WorkerState.DRAINING
    silent(store, ONE.name, 100)
    assert state() is WorkerState.SILENT
    store.fleet.stopped(ONE.name)
    assert state() is WorkerState.STOPPED


def test_samples_of_an_upload_are_kept_until_a_retry(store: Store) -> None:
    ticket = add_ticket(store)
    claim = store.leases.claim(ticket.id, ONE.name, 60)
    assert claim
    for sent in (0, 400, 1000):
        store.leases.renew(claim, 60, sent=sent, sample=sent != 400)
    samples = store.tickets.samples(ticket.id)
    assert [(each.attempt, each.sent) for each in samples] == [(1, 0), (1, 1000)]
    assert claim.now <= samples[0].at <= samples[1].at
    store.leases.failed(claim, error="no", reason=Reason.QUOTA)
    store.tickets.retry(ticket.id)
    assert store.tickets.samples(ticket.id) == [], "its attempts are counted anew"


def test_statistics_count_notifications_and_orphans(store: Store) -> None:
    assert store.statistics.notifications() == NotificationBacklog(0, 0, 0.0)
    assert store.statistics.orphans() == 0
    ticket = add_ticket(store)
    row = {"ticket_id": ticket.id, "owner": "root", "url": "http://x", "event": "e", "body": "b", "attempt": 0}
    with writing(store.engine) as connection:
        for number, state in enumerate(("waiting", "waiting", "failed", "sent")):
            made = {"uid": str(number), "state": state, "next_at": 0.0, "created": db_now() - 10 * (number + 1)}
            connection.execute(insert(notifications).values(row | made))
    store.sweeping.see("u", "c")
    told = store.statistics.notifications()
    assert (told.waiting, told.failed) == (2, 1)
    assert told.oldest_seconds == pytest.approx(20, abs=5)
    assert store.statistics.orphans() == 1


def test_silent_workers_are_forgotten(store: Store) -> None:
    store.fleet.beat(ONE)
    store.fleet.beat(OTHER)
    silent(store, OTHER.name, 100)
    assert store.fleet.forget(99) == 1
    assert [each.member for each in store.fleet.workers()] == [ONE]


def test_statistics_count_tickets_failures_and_throughput(store: Store) -> None:
    assert store.statistics.queue() == Queue(0, 0.0)
    published, failed, waiting, later = (add_ticket(store) for _ in range(4))
    for each in (published, failed, later):
        claim = store.leases.claim(each.id, ONE.name, 60)
        assert claim
        if each is published:
            store.leases.published(claim, cloud_id="c", location=None)
        elif each is failed:
            store.leases.failed(claim, error="no")
        else:
            store.leases.retry(claim, delay_seconds=60, error="not now")
    put_back(store, waiting, accepted=30)
    put_back(store, published, started=100, finished=90)
    with writing(store.engine) as connection:
        connection.execute(update(tickets).where(tickets.c.id == failed.id).values(reason="quota"))

    assert store.statistics.counts() == {
        ("memory", State.PUBLISHED): 1,
        ("memory", State.FAILED): 1,
        ("memory", State.QUEUED): 2,
    }
    queue = store.statistics.queue()
    assert queue.depth == 2
    assert queue.oldest_seconds == pytest.approx(30, abs=5)
    assert store.statistics.failures(3600) == {"quota": 1}
    assert store.statistics.failures(0) == {}
    (throughput,) = store.statistics.throughput(3600)
    assert throughput == Throughput("memory", 1, 1000, throughput.seconds)
    assert throughput.seconds == pytest.approx(10, abs=1)
    assert store.statistics.throughput(60) == []


def test_audit_log_is_listed_newest_first_and_filtered(store: Store) -> None:
    root, other = Actor("root", "api", "127.0.0.1", "r-1"), Actor("other", "console")
    store.audit.add(root, "account.create", "users/root/accounts/1", "openstack")
    store.audit.add(other, "ticket.cancel", "users/root/appliances/4/images/7/pimages/1")
    cancelled, created = store.audit.latest()
    assert (created.actor, created.action, created.detail) == (root, "account.create", "openstack")
    assert (cancelled.actor, cancelled.object) == (other, "users/root/appliances/4/images/7/pimages/1")
    assert store.audit.latest(1) == [cancelled]
    assert store.audit.latest(before=cancelled.id) == [created]
    assert store.audit.latest(actor="root") == store.audit.latest(object="users/root/accounts/1") == [created]
