"""A cancelled ticket ends with a clean cloud, or names the image that may be left."""

import time

import pytest

from publisher.core.errors import (
    PermanentCloudError,
    TransientCloudError,
)
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from tests.patience import PATIENCE
from tests.records import current, put_back, words
from tests.unit.workers.runner.scripted_cloud import Script, cancel, cloud_ids
from workers.runner import Runner


@pytest.mark.parametrize(
    ("step", "deletions_min"),
    [("connect", 0), ("check", 0), ("find", 0), ("upload", 0), ("created", 1), ("chunk", 1), ("finish", 1)],
)
def test_a_cancel_at_any_step_ends_with_a_clean_cloud(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str, deletions_min: int
) -> None:
    states_at_delete: list[State] = []

    script.on[step] = lambda: cancel(sqlite_store, ticket)
    script.on["delete"] = lambda: states_at_delete.append(current(sqlite_store, ticket).state)
    assert runner.run(ticket.id) is State.CANCELLED
    now = current(sqlite_store, ticket)
    assert (now.state, now.cloud_id) == (State.CANCELLED, None)
    assert script.images == {}
    assert states_at_delete in ([State.CANCELLING] * count for count in range(deletions_min, 2))
    assert set(cloud_ids(sqlite_store, ticket)) <= {"gone"}
    assert script.closed <= 1


@pytest.mark.long
def test_a_cancel_during_the_upload_is_noticed_at_once(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    """The worker writes nothing meanwhile; the thread that renews the lease sees the cancel."""
    cancelled_at: list[float] = []

    def cancel_then_trickle() -> None:
        if not cancelled_at:
            sqlite_store.tickets.request_cancel(ticket.id)
            cancelled_at.append(time.monotonic())
            time.sleep(2)

    script.on["chunk"] = cancel_then_trickle
    assert runner.run(ticket.id) is State.CANCELLED
    assert time.monotonic() - cancelled_at[0] < 4 * PATIENCE
    assert script.asked.count("chunk") == 1


@pytest.mark.parametrize("error", [TransientCloudError("Glance is away"), KeyError("internal: 10.9.8.7")])
def test_a_ticket_stays_cancelling_until_its_clean_up_succeeds(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: Exception
) -> None:
    script.on["chunk"] = lambda: cancel(sqlite_store, ticket)
    script.fail("delete", error)
    assert runner.run(ticket.id) is State.CANCELLING
    assert current(sqlite_store, ticket).state is State.CANCELLING
    assert cloud_ids(sqlite_store, ticket) == ["condemned"]
    assert runner.run(ticket.id) is None, "only after a while"
    put_back(sqlite_store, ticket, lease_until=0.01, wake_at=0.01)
    assert sqlite_store.tickets.due() == [ticket.id]
    script.on.clear()
    assert runner.run(ticket.id) is State.CANCELLED
    assert script.images == {}
    assert cloud_ids(sqlite_store, ticket) == ["gone"]
    assert "10.9.8.7" not in f"{current(sqlite_store, ticket)} {words(sqlite_store, ticket)}"


@pytest.mark.parametrize("error", [TransientCloudError("Glance is away"), KeyError("internal: 10.9.8.7")])
def test_a_cancel_fails_if_its_clean_up_keeps_failing(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: Exception
) -> None:
    script.on["chunk"] = lambda: cancel(sqlite_store, ticket)
    script.fail("delete", error)
    states = []
    for _ in range(5):
        states.append(runner.run(ticket.id))
        put_back(sqlite_store, ticket, lease_until=0.01, wake_at=0.01)
    assert states == [State.CANCELLING] * 4 + [State.FAILED]
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "cancelled, but not cleaned up"
    assert f"{cloud_id} may be left in the cloud" in (now.error_detail or "")
    assert "10.9.8.7" not in f"{now} {words(sqlite_store, ticket)}"


def test_a_cancel_names_the_image_that_it_cannot_delete(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.on["chunk"] = lambda: cancel(sqlite_store, ticket)
    script.fail("delete", PermanentCloudError("the image is protected"))
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "cancelled, but not cleaned up"
    assert cloud_id in (now.error_detail or "")
    assert "the image is protected" in (now.error_detail or "")


def test_a_cancel_during_a_failure_still_cancels(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    def cancel_and_fail() -> None:
        sqlite_store.tickets.request_cancel(ticket.id)
        raise PermanentCloudError("quota")

    script.on["created"] = cancel_and_fail
    assert runner.run(ticket.id) is State.CANCELLED
    assert script.images == {}
