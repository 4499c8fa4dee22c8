"""Claims, leases and fencing on each kind of database."""

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from publisher.core.errors import Cancelled, LeaseLost, Reason
from publisher.core.ticket import TRANSITIONS, CloudRef, Phase, State, Ticket
from publisher.store import Store
from publisher.store.database import db_now, history, journal, reading, tickets
from publisher.store.leases import Claim, Leases
from publisher.store.ticket_rows import transition
from tests.conftest import open_store
from tests.patience import PATIENCE
from tests.records import add_ticket, current, put_back, words
from tests.servers import missing
from tests.servers.postgres import OwnPostgres, find_postgres


def claim(store: Store, ticket: Ticket, worker: str = "a", seconds: float = 60) -> Claim:
    claimed = store.leases.claim(ticket.id, worker, seconds)
    assert claimed is not None
    return claimed


def everything(store: Store) -> object:
    """Return all rows that the store has of its tickets."""
    with reading(store.engine) as connection:
        return [connection.execute(table.select()).all() for table in (tickets, history, journal)]


# Claiming -------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("found", ["queued", "abandoned", "abandoned while cancelling"])
def test_exactly_one_of_eight_racing_workers_gets_the_claim(stores: Callable[[], Store], found: str) -> None:
    racers = [stores() for _ in range(8)]
    store = racers[0]
    for _ in range(10):
        ticket = add_ticket(store)
        attempts = 0
        if found != "queued":
            attempts = 1
            claim(store, ticket, "dead")
            if found == "abandoned while cancelling":
                store.tickets.request_cancel(ticket.id)
            put_back(store, ticket, lease_until=1)
        start = threading.Barrier(8)

        def race(number: int, ticket: Ticket = ticket, start: threading.Barrier = start) -> Claim | None:
            start.wait(30 * PATIENCE)
            return racers[number].leases.claim(ticket.id, f"worker-{number}", 60)

        with ThreadPoolExecutor(8) as pool:
            won = [each for each in pool.map(race, range(8)) if each]
        assert len(won) == 1
        now = current(store, ticket)
        assert (now.worker, now.lease_token, now.attempt) == (won[0].ticket.worker, won[0].token, attempts + 1)
        assert sum("laimed by" in line for line in words(store, ticket)) == attempts + 1


def test_a_claim_begins_an_attempt(store: Store) -> None:
    ticket = add_ticket(store)
    claimed = claim(store, ticket)
    assert claimed.ticket == current(store, ticket)
    assert (claimed.ticket.state, claimed.ticket.phase) == (State.PUBLISHING, Phase.PREPARING)
    assert (claimed.ticket.attempt, claimed.ticket.worker, claimed.token) == (1, "a", 1)
    assert claimed.ticket.started is not None
    assert words(store, ticket) == ["Accepted", "Claimed by a"]


@pytest.mark.real
def test_tokens_and_the_journal_survive_a_crash_of_the_server() -> None:
    """If a token were given twice, two workers could write. If a mark were lost, one could use a condemned image."""
    binaries = find_postgres() or missing("PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        # The server writes a commit that does not wait for the disk only ten seconds later.
        server = OwnPostgres(binaries, Path(directory), synchronous_commit="on", wal_writer_delay="10s")
        server.start()
        store = open_store(server.fresh())
        try:
            store.migrate()
            ticket = add_ticket(store)
            claimed = claim(store, ticket)
            server.kill()
            server.start()
            assert current(store, ticket).lease_token == claimed.token
            store.leases.plan(claimed, "c-1")
            store.leases.mark(claimed, "c-1", "condemned")
            server.kill()
            server.start()
            assert store.tickets.journal(ticket.id) == [CloudRef("c-1", "condemned")]
        finally:
            store.close()
            server.kill()


def test_tickets_held_waiting_or_ended_cannot_be_claimed(store: Store) -> None:
    assert store.leases.claim(999, "a", 60) is None
    held, waiting = add_ticket(store), add_ticket(store)
    claim(store, held)
    store.leases.retry(claim(store, waiting), delay_seconds=60, error="later")
    published, failed, cancelled = add_ticket(store), add_ticket(store), add_ticket(store)
    store.leases.published(claim(store, published), cloud_id="c", location=None)
    store.leases.failed(claim(store, failed), error="no")
    store.tickets.request_cancel(cancelled.id)
    before = everything(store)
    for ticket in (held, waiting, published, failed, cancelled):
        assert store.leases.claim(ticket.id, "b", 60) is None
    assert everything(store) == before


@pytest.mark.long
def test_a_lease_runs_out_by_the_databases_clock(store: Store) -> None:
    """The clock of a worker does not matter."""
    ticket = add_ticket(store)
    claim(store, ticket, seconds=0.3)
    with reading(store.engine) as connection:
        until = connection.execute(tickets.select().where(tickets.c.id == ticket.id)).one().lease_until
    second = None
    with reading(store.engine) as connection:
        now = connection.execute(db_now().select()).scalar_one()
    while second is None:
        before = now
        second = store.leases.claim(ticket.id, "b", 60)
        with reading(store.engine) as connection:
            now = connection.execute(db_now().select()).scalar_one()
        assert now < until + 10
    assert now > until
    assert before <= now
    assert second.ticket.attempt == 2
    assert words(store, ticket)[-1] == "The previous worker's lease expired; claimed by b"


def test_clock_of_the_database_counts_seconds_since_the_epoch(store: Store) -> None:
    """It does not go back from one transaction to the next."""
    import time

    with reading(store.engine) as connection:
        first = connection.execute(db_now().select()).scalar_one()
    with reading(store.engine) as connection:
        second = connection.execute(db_now().select()).scalar_one()
    assert abs(first - time.time()) < 5
    assert second >= first


def test_a_renewed_lease_holds(store: Store) -> None:
    ticket = add_ticket(store)
    claimed = claim(store, ticket, seconds=30)
    store.leases.renew(claimed, 600, sent=500)
    put_back(store, ticket, lease_until=-100)  # the first lease would have run out by now
    assert store.leases.claim(ticket.id, "b", 60) is None
    assert current(store, ticket).progress.sent == 500
    assert store.tickets.due() == []


@pytest.mark.parametrize("state", ["publishing", "cancelling"])
def test_an_expired_lease_is_never_renewed(store: Store, state: str) -> None:
    """This holds even if no other worker has a claim: a paused worker must stop, and the ticket is free at once."""
    ticket = add_ticket(store)
    expired = claim(store, ticket)
    if state == "cancelling":
        store.tickets.request_cancel(ticket.id)
    put_back(store, ticket, lease_until=1, wake_at=1)
    before = everything(store)
    for name in ("renew", "extend", "check", "phase", "region", "plan"):
        with pytest.raises(LeaseLost):
            WRITES[name](store.leases, expired)
        assert everything(store) == before, name
    assert store.tickets.due() == [ticket.id]
    assert claim(store, ticket, "b").token == expired.token + 1


def test_ticket_is_free_at_once_after_its_lease_is_given_up(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    assert store.tickets.due() == []
    store.leases.give_up(held)
    assert store.tickets.due() == [ticket.id]
    with pytest.raises(LeaseLost):
        store.leases.renew(held, 60, sent=1)
    assert claim(store, ticket, "b").ticket.attempt == 2


# Fencing --------------------------------------------------------

WRITES: dict[str, Callable[[Leases, Claim], object]] = {
    "renew": lambda leases, claim: leases.renew(claim, 60, sent=999),
    "extend": lambda leases, claim: leases.extend(claim, 60),
    "check": lambda leases, claim: leases.check(claim),
    "phase": lambda leases, claim: leases.phase(claim, Phase.UPLOADING, "x"),
    "region": lambda leases, claim: leases.region(claim, "RegionOne"),
    "plan": lambda leases, claim: leases.plan(claim, "new"),
    "mark present": lambda leases, claim: leases.mark(claim, "cloud-1", "present"),
    "mark gone": lambda leases, claim: leases.mark(claim, "cloud-1", "gone"),
    "published": lambda leases, claim: leases.published(claim, cloud_id="c", location="here"),
    "failed": lambda leases, claim: leases.failed(claim, error="e"),
    "not_cleaned": lambda leases, claim: leases.not_cleaned(claim, error="e", detail="d"),
    "cancelled": lambda leases, claim: leases.cancelled(claim),
    "retry": lambda leases, claim: leases.retry(claim, delay_seconds=1, error="e"),
    "release": lambda leases, claim: leases.release(claim, "w"),
    "hand_over": lambda leases, claim: leases.hand_over(claim),
    "give_up": lambda leases, claim: leases.give_up(claim),
    "withdrawn": lambda leases, claim: leases.withdrawn(claim, words="w"),
    "retired": lambda leases, claim: leases.retired(claim, words="w"),
    "not_withdrawn": lambda leases, claim: leases.not_withdrawn(claim, error="e", detail="d", reason=Reason.REFUSED),
    "withdraw_later": lambda leases, claim: leases.withdraw_later(
        claim, delay_seconds=1, error="e", reason=Reason.REFUSED
    ),
}


def test_every_method_that_takes_a_claim_is_fenced() -> None:
    written = {name.split()[0] for name in WRITES}
    public = {name for name in vars(Leases) if not name.startswith("_")}
    assert public - written == {"claim", "next_waiting"}, "these write nothing under a claim"


@pytest.mark.parametrize("after", ["claimed", "claimed while cancelling", "queued", "published", "failed", "cancelled"])
def test_an_old_token_writes_nothing(store: Store, after: str) -> None:
    ticket = add_ticket(store)
    old = claim(store, ticket, "slow")
    store.leases.plan(old, "cloud-1")
    if after in ("claimed while cancelling", "cancelled"):
        store.tickets.request_cancel(ticket.id)
    put_back(store, ticket, lease_until=1)
    new = claim(store, ticket, "quick")
    match after:
        case "queued":
            store.leases.retry(new, delay_seconds=0, error="again")
        case "published":
            store.leases.published(new, cloud_id="cloud-1", location=None)
        case "failed":
            store.leases.failed(new, error="no")
        case "cancelled":
            store.leases.cancelled(new)
    before = everything(store)
    for name, write in WRITES.items():
        with pytest.raises(LeaseLost):
            write(store.leases, old)
        assert everything(store) == before, name


@pytest.mark.parametrize("after", ["queued", "published", "failed", "cancelled"])
def test_the_token_of_a_claim_that_has_ended_writes_nothing(store: Store, after: str) -> None:
    """The token is the newest one, but its claim has ended. A thread that renews leases may be late by a turn."""
    ticket = add_ticket(store)
    ended = claim(store, ticket)
    store.leases.plan(ended, "cloud-1")
    match after:
        case "queued":
            store.leases.retry(ended, delay_seconds=0, error="again")
        case "published":
            store.leases.published(ended, cloud_id="cloud-1", location=None)
        case "failed":
            store.leases.failed(ended, error="no")
        case "cancelled":
            store.tickets.request_cancel(ticket.id)
            store.leases.cancelled(ended)
    before = everything(store)
    for name, write in WRITES.items():
        with pytest.raises(LeaseLost):
            write(store.leases, ended)
        assert everything(store) == before, name


def test_only_the_clean_up_may_write_after_a_cancel(store: Store) -> None:
    """Writes that would continue the upload are refused."""
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.leases.plan(held, "cloud-1")
    store.tickets.request_cancel(ticket.id)
    before = everything(store)
    for name in ("renew", "check", "phase", "region", "plan", "published", "failed", "retry", "release"):
        with pytest.raises(Cancelled):
            WRITES[name](store.leases, held)
        assert everything(store) == before, name
    for name in ("extend", "mark present", "mark gone", "hand_over", "cancelled"):
        WRITES[name](store.leases, held)
    assert current(store, ticket).state is State.CANCELLED


def test_claim_of_a_deleted_ticket_is_lost(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    with store.engine.begin() as connection:
        connection.execute(tickets.delete())
    for write in WRITES.values():
        with pytest.raises(LeaseLost):
            write(store.leases, held)


# Outcomes -------------------------------------------------------


def test_published_ticket_keeps_its_outcome_but_no_secrets(store: Store) -> None:
    ticket = add_ticket(store, image_size=1000)
    held = claim(store, ticket)
    store.leases.renew(held, 60, sent=900)
    store.leases.published(held, cloud_id="cloud-1", location="RegionOne")
    now = current(store, ticket)
    assert (now.state, now.cloud_id, now.location, now.progress.percentage) == (
        *(State.PUBLISHED, "cloud-1"),
        *("RegionOne", 100),
    )
    assert now.sealed_secrets is None
    assert now.error is None
    assert now.finished is not None
    assert words(store, ticket)[-1] == "Published"


def test_published_ticket_keeps_its_handle_and_the_clouds_own_id(store: Store) -> None:
    ticket = add_ticket(store)
    store.leases.published(claim(store, ticket), cloud_id="handle", location=None, shown_id="ami-" + "7" * 300)
    now = current(store, ticket)
    assert (now.cloud_id, now.shown_id) == ("handle", "ami-" + "7" * 300)
    assert now.id_in_cloud == now.shown_id


def test_failed_ticket_keeps_its_error(store: Store) -> None:
    ticket = add_ticket(store)
    store.leases.failed(claim(store, ticket), error="quota exceeded", detail="cloud-1 may be left")
    now = current(store, ticket)
    assert (now.state, now.error, now.error_detail) == (State.FAILED, "quota exceeded", "cloud-1 may be left")
    assert now.finished is not None
    assert words(store, ticket)[-1] == "Failed: quota exceeded"


def test_retry_waits_and_counts_the_attempt(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.leases.renew(held, 60, sent=900)
    store.leases.retry(held, delay_seconds=30, error="Glance is away")
    now = current(store, ticket)
    assert (now.state, now.attempt, now.progress.sent, now.worker) == (State.QUEUED, 1, 0, None)
    assert now.error == "Glance is away"
    assert now.message == "Waiting to try again (attempt 2): Glance is away"
    assert 29 < now.not_before - now.modified < 31
    assert store.leases.claim(ticket.id, "b", 60) is None
    assert store.tickets.due() == []
    put_back(store, ticket, not_before=0.01, wake_at=0.01)
    assert store.tickets.due() == [ticket.id]
    assert claim(store, ticket).ticket.attempt == 2


def test_release_does_not_count_the_attempt(store: Store) -> None:
    ticket = add_ticket(store)
    for _ in range(3):
        held = claim(store, ticket)
        assert held.ticket.attempt == 1
        store.leases.release(held, "The worker shuts down")
        assert current(store, ticket).attempt == 0
        assert store.tickets.due() == [ticket.id]
    assert words(store, ticket)[-1] == "The worker shuts down"
    assert current(store, ticket).error is None


def test_a_cancel_that_cannot_clean_up_is_handed_over(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.tickets.request_cancel(ticket.id)
    store.leases.hand_over(held, delay_seconds=60)
    assert store.leases.claim(ticket.id, "b", 60) is None
    assert store.tickets.due() == []
    put_back(store, ticket, lease_until=0.01, wake_at=0.01)
    assert store.tickets.due() == [ticket.id]
    second = claim(store, ticket, "b")
    assert second.ticket.state is State.CANCELLING
    store.leases.cancelled(second)
    now = current(store, ticket)
    assert (now.state, now.cloud_id) == (State.CANCELLED, None)
    assert now.finished is not None


def test_cancel_fails_with_details_if_clean_up_is_impossible(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.tickets.request_cancel(ticket.id)
    store.leases.not_cleaned(held, error="cancelled, but not cleaned up", detail="cloud-1 may be left")
    now = current(store, ticket)
    assert (now.state, now.error, now.error_detail) == (
        *(State.FAILED, "cancelled, but not cleaned up"),
        "cloud-1 may be left",
    )
    assert now.finished is not None


# Journal and history --------------------------------------------


def test_journal_lists_planned_present_and_deleted_objects(store: Store) -> None:
    ticket, other = add_ticket(store), add_ticket(store)
    held = claim(store, ticket)
    store.leases.plan(held, "first")
    assert current(store, ticket).cloud_id is None
    store.leases.mark(held, "first", "present")
    assert current(store, ticket).cloud_id == "first"
    store.leases.mark(held, "first", "gone")
    assert current(store, ticket).cloud_id is None
    store.leases.plan(held, "second")
    expected = [CloudRef("first", "gone"), CloudRef("second", "planned")]
    assert list(store.tickets.journal(ticket.id)) == expected
    assert list(store.tickets.journal(other.id)) == []


def test_every_change_leaves_a_line_in_the_history(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.leases.phase(held, Phase.AUTHENTICATING, "Signing in")
    store.leases.phase(held, Phase.UPLOADING, "Uploading 1000 bytes")
    store.leases.renew(held, 60, sent=10)  # progress does not change the state
    store.leases.retry(held, delay_seconds=0, error="Glance is away")
    held = claim(store, ticket, "b")
    store.tickets.request_cancel(ticket.id)
    put_back(store, ticket, lease_until=1)
    store.leases.cancelled(claim(store, ticket, "c"))
    history = store.tickets.history(ticket.id)
    assert [(entry.from_state, entry.to_state, entry.phase, entry.words) for entry in history] == [
        (None, State.QUEUED, Phase.WAITING, "Accepted"),
        (State.QUEUED, State.PUBLISHING, Phase.PREPARING, "Claimed by a"),
        (State.PUBLISHING, State.PUBLISHING, Phase.AUTHENTICATING, "Signing in"),
        (State.PUBLISHING, State.PUBLISHING, Phase.UPLOADING, "Uploading 1000 bytes"),
        (State.PUBLISHING, State.QUEUED, Phase.WAITING, "Will be tried again in 0 s: Glance is away"),
        (State.QUEUED, State.PUBLISHING, Phase.PREPARING, "Claimed by b"),
        (State.PUBLISHING, State.CANCELLING, Phase.PREPARING, "Cancel requested"),
        (State.CANCELLING, State.CANCELLING, Phase.PREPARING, "The previous worker's lease expired; claimed by c"),
        (State.CANCELLING, State.CANCELLED, Phase.PREPARING, "Cancelled: nothing is left in the cloud"),
    ]
    assert [entry.at for entry in history] == sorted(entry.at for entry in history)
    assert {(entry.from_state, entry.to_state) for entry in history[1:]} <= TRANSITIONS


def test_transition_that_is_not_in_the_table_raises_an_error(store: Store) -> None:
    ticket = add_ticket(store)
    before = everything(store)
    for from_state in State:
        for to_state in State:
            if (from_state, to_state) not in TRANSITIONS:
                with (
                    store.engine.begin() as connection,
                    pytest.raises(ValueError, match=f"no transition from {from_state} to {to_state}"),
                ):
                    transition(connection, ticket.id, from_state, to_state, words="x")
    assert everything(store) == before


def test_a_change_whose_guard_does_not_hold_writes_nothing(store: Store) -> None:
    ticket = add_ticket(store)
    before = everything(store)
    with store.engine.begin() as connection:
        assert not transition(connection, ticket.id, State.PUBLISHING, State.PUBLISHED, words="x")
        assert not transition(
            connection, ticket.id, State.QUEUED, State.PUBLISHING, tickets.c.lease_token == 5, words="x"
        )
    assert everything(store) == before


def test_renewed_lease_does_not_count_as_progress(store: Store) -> None:
    ticket = add_ticket(store)
    held = claim(store, ticket)
    store.leases.renew(held, 60, sent=0)
    assert current(store, ticket).progressed is None
    store.leases.renew(held, 60, sent=10)
    first = current(store, ticket).progressed
    assert first is not None
    assert first >= held.ticket.modified
    store.leases.renew(held, 60, sent=10)
    assert current(store, ticket).progressed == first
    store.leases.release(held, "released")
    assert current(store, ticket).progressed is None
