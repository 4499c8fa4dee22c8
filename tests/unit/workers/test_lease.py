"""A lease's own thread renews it, and records progress and samples of an upload."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import OperationalError

from publisher.core.errors import LeaseLost
from publisher.core.settings import Settings
from publisher.core.ticket import Ticket
from publisher.store import Store
from publisher.store.leases import Leases
from tests.records import add_ticket
from tests.stack import until
from workers import lease as module
from workers.drain import Drain
from workers.lease import Lease, TicketLease

LEASE_SECONDS = 3600.0


@pytest.fixture
def ticket(sqlite_store: Store) -> Ticket:
    return add_ticket(sqlite_store)


@contextmanager
def held(store: Store, ticket: Ticket, *, took_seconds: float = 0) -> Iterator[TicketLease]:
    """Hold a lease on the ticket. `took_seconds` is how long the store took for the claim."""
    # Much longer than any test waits.
    settings = Settings(progress_seconds=0.01, lease_seconds=LEASE_SECONDS)
    asked = time.monotonic() - took_seconds
    claim = store.leases.claim(ticket.id, "a", settings.lease_seconds)
    assert claim
    with TicketLease(store.leases, claim, settings, Drain(60), asked=asked) as lease:
        yield lease


@pytest.mark.long
def test_lease_counts_from_the_time_of_its_request(
    sqlite_store: Store, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow database has started the lease before its answer arrives."""
    monkeypatch.setattr(Leases, "renew", slow)
    monkeypatch.setattr(Leases, "check", slow)
    with held(sqlite_store, ticket, took_seconds=LEASE_SECONDS - 0.2) as lease:
        until(lambda: stopped(lease), 5)


def test_lease_of_stuck_work_is_not_renewed(sqlite_store: Store, ticket: Ticket) -> None:
    """The work no longer checks whether to continue, for example because a file system hangs."""
    with held(sqlite_store, ticket) as lease:
        lease.check()
        lease._silent_seconds = -1.0
        until(lambda: not lease._thread.is_alive(), 20)
        assert stopped(lease)


def test_lease_that_has_ended_stops_abandoned_calls(sqlite_store: Store, ticket: Ticket) -> None:
    """An abandoned call checks the lease after its end."""
    with held(sqlite_store, ticket) as lease:
        assert not stopped(lease)
    assert stopped(lease)


def slow(*_: object, **__: object) -> None:
    raise OperationalError("UPDATE", None, Exception("the server is slow"))


def stopped(lease: Lease) -> bool:
    try:
        lease.check()
    except LeaseLost:
        return True
    return False


@pytest.mark.long
def test_samples_are_taken_while_an_upload_moves(
    sqlite_store: Store, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAMPLE_SECONDS", 0.02)

    def taken() -> list[int]:
        return [each.sent for each in sqlite_store.tickets.samples(ticket.id)]

    with held(sqlite_store, ticket) as lease:
        with lease.uploading():
            assert taken() == [0]

            def moves() -> bool:
                lease.sent += 1
                return len(taken()) >= 4

            until(moves, 10)
            lease.sent = 1000
        assert (taken()[0], taken()[-1], taken()) == (0, 1000, sorted(taken()))
        lease.sent = 1001
        found = sqlite_store.tickets.get
        until(lambda: (now := found(ticket.id)) and now.progress.sent == 1001, 10)
        assert taken()[-1] == 1000, "only while it is uploaded"
    sqlite_store.tickets.request_cancel(ticket.id)


@pytest.mark.long
@pytest.mark.parametrize(("seconds", "least", "most"), [(60, 80, 130), (3600, 300, 700), (86400, 500, 1000)])
def test_samples_become_rarer_during_a_long_upload(
    sqlite_store: Store, ticket: Ticket, seconds: int, least: int, most: int
) -> None:
    with held(sqlite_store, ticket) as lease:
        began = time.monotonic()
        lease._uploading_since = began
        lease._sampled, count = began, 0
        for tenth in range(seconds * 10):
            now = began + tenth / 10
            if lease._sample_due(now):
                lease._sampled, count = now, count + 1
        lease._uploading_since = None
    assert least <= count <= most
