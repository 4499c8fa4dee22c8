"""When and how often a runner tries again after a transient error."""

import pytest

from publisher.core.errors import (
    PermanentCloudError,
    Reason,
    TransientCloudError,
)
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from tests.records import current, put_back
from tests.unit.workers.runner.scripted_cloud import Script, cloud_ids, due_now
from workers.backoff import retry_delay
from workers.runner import Runner


def test_a_ticket_waits_after_a_transient_error_and_is_then_published(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("chunk", TransientCloudError("the connection to glance:9292 failed: reset"))
    assert runner.run(ticket.id) is State.QUEUED
    now = current(sqlite_store, ticket)
    assert now.error == "the connection to glance:9292 failed: reset"
    assert 6 <= now.not_before - now.modified <= 10.1
    assert now.reason == Reason.UNAVAILABLE
    assert len(script.images) == 1, "what was made is adopted by the next attempt"
    assert runner.run(ticket.id) is None
    due_now(sqlite_store, ticket)
    script.on.clear()
    assert runner.run(ticket.id) is State.PUBLISHED
    assert (current(sqlite_store, ticket).attempt, current(sqlite_store, ticket).reason) == (2, None)
    assert len(script.images) == 1
    assert cloud_ids(sqlite_store, ticket) == ["present"]


def test_the_next_attempt_waits_as_long_as_the_cloud_asks(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("connect", TransientCloudError("slow down", retry_after_seconds=500))
    runner.run(ticket.id)
    now = current(sqlite_store, ticket)
    assert 499 < now.not_before - now.modified < 501


def test_a_ticket_fails_after_its_last_attempt(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("chunk", TransientCloudError("away"))
    for _ in range(2):
        assert runner.run(ticket.id) is State.QUEUED
        due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == "away (given up after 3 attempts)"
    assert script.images == {}


def test_a_ticket_that_kills_its_workers_fails(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    for _ in range(3):
        assert sqlite_store.leases.claim(ticket.id, "doomed", 60)
        put_back(sqlite_store, ticket, lease_until=1)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == "given up: 3 workers stopped while working on it"
    assert current(sqlite_store, ticket).reason == Reason.WORKER_LOST


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 10, 1000, 5000])
def test_delays_double_up_to_a_limit(settings: Settings, attempt: int) -> None:
    delays = [retry_delay(settings, attempt) for _ in range(200)]
    middle = min(8.0 * 2 ** min(attempt - 1, 20), 60.0)
    assert min(delays) >= 0.75 * middle
    assert max(delays) <= 1.25 * middle
    assert max(delays) - min(delays) > 0.2 * middle
    assert retry_delay(settings, attempt, 1e4) == 1e4
    assert retry_delay(settings, attempt, float("inf")) == 86400


def test_sign_in_of_an_earlier_ticket_that_fails_is_replaced_at_once(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    def refuse_the_old_one() -> None:
        if script.asked.count("find") == 1:
            raise PermanentCloudError("the token is not valid", reason=Reason.CREDENTIALS)

    script.kept = True
    script.on["find"] = refuse_the_old_one
    assert runner.run(ticket.id) is State.PUBLISHED
    assert current(sqlite_store, ticket).attempt == 1
    assert [step for step in script.asked if step in ("connect", "find")] == ["connect", "find", "connect", "find"]
    assert script.closed == 2
    assert script.kept


def test_fresh_sign_in_that_fails_is_not_repeated_at_once(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("find", TransientCloudError("the cloud does not answer"))
    assert runner.run(ticket.id) is State.QUEUED
    assert script.asked.count("connect") == 1
    assert not script.kept


def test_sign_in_that_cannot_be_kept_fails_no_call(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    def fail() -> None:
        raise ValueError("the token has no date")

    script.on["keep"] = fail
    assert runner.run(ticket.id) is State.PUBLISHED
    assert script.asked.count("connect") == 1
    assert script.asked.count("keep") >= 1
