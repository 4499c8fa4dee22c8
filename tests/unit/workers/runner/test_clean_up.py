"""After a failure, the runner deletes the ticket's image from the cloud, or names the image that may be left."""

import pytest
from sqlalchemy import update

from publisher.core.errors import (
    PermanentCloudError,
    Reason,
    TransientCloudError,
)
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from publisher.store.database import tickets, writing
from tests.records import current, put_back, words
from tests.unit.workers.runner.scripted_cloud import Script, cloud_ids, due_now
from workers.runner import Runner


def test_an_image_is_condemned_before_it_is_deleted(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("chunk", PermanentCloudError("the quota is used up"))
    seen: list[list[str]] = []
    script.on["delete"] = lambda: seen.append(cloud_ids(sqlite_store, ticket))
    assert runner.run(ticket.id) is State.FAILED
    assert seen == [["condemned"]]


@pytest.mark.parametrize(
    ("target", "expected"),
    [({}, ["delete"]), ({"protected": False}, ["delete"]), ({"protected": True}, ["release", "delete"])],
)
def test_an_image_is_released_before_it_is_deleted_if_it_was_to_be_protected(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, target: dict[str, bool], expected: list[str]
) -> None:
    with writing(sqlite_store.engine) as connection:
        connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(target=ticket.target | target))
    script.fail("finish", PermanentCloudError("forbidden"))
    assert runner.run(ticket.id) is State.FAILED
    assert [step for step in script.asked if step in ("release", "delete")] == expected
    assert script.images == {}


@pytest.mark.parametrize("attempts", [0, 2], ids=["at first", "at the last attempt"])
def test_a_clean_up_that_fails_is_tried_again(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, attempts: int
) -> None:
    for _ in range(attempts):
        sqlite_store.leases.claim(ticket.id, "doomed", 60)
        put_back(sqlite_store, ticket, lease_until=1)
    script.fail("finish", PermanentCloudError("forbidden", reason=Reason.FORBIDDEN))
    script.fail("delete", TransientCloudError("Glance is away"))
    assert runner.run(ticket.id) is State.QUEUED
    assert current(sqlite_store, ticket).error == "forbidden; cleaning up: Glance is away"
    assert len(script.images) == 1
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.QUEUED, "the cloud is waited for"
    assert script.asked.count("upload") == 1, "what has failed is not tried again"
    script.on.clear()
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert (now.error, now.error_detail, script.images) == ("forbidden", None, {})
    assert now.reason == Reason.FORBIDDEN, "not why it could not be cleaned up"


def test_a_cloud_message_that_looks_like_ours_fails_no_ticket(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("upload", TransientCloudError("503 busy; cleaning up: please come back"))
    assert runner.run(ticket.id) is State.QUEUED
    script.on.clear()
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.PUBLISHED


def test_a_clean_up_that_is_given_up_names_the_image_left(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    for _ in range(2):
        sqlite_store.leases.claim(ticket.id, "doomed", 60)
        put_back(sqlite_store, ticket, lease_until=1)
    script.fail("finish", PermanentCloudError("forbidden"))
    script.fail("delete", TransientCloudError("Glance is away"))
    states = []
    for _ in range(3):
        states.append(runner.run(ticket.id))
        due_now(sqlite_store, ticket)
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "forbidden"
    assert now.error_detail == f"{cloud_id} may be left in the cloud, cleaning up failed: Glance is away"


@pytest.mark.parametrize("error", [PermanentCloudError("protected"), KeyError("internal: 10.9.8.7")])
def test_a_permanent_error_in_a_clean_up_names_the_image_left(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: Exception
) -> None:
    script.fail("finish", PermanentCloudError("forbidden"))
    script.fail("delete", error)
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "forbidden"
    assert f"{cloud_id} may be left in the cloud" in (now.error_detail or "")
    assert "10.9.8.7" not in f"{now} {words(sqlite_store, ticket)}"
