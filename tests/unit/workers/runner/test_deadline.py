"""The time within which a ticket must be published."""

import dataclasses
import time

import pytest

from publisher.core.errors import (
    Reason,
    TransientCloudError,
)
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from tests.records import current, put_back
from tests.unit.workers.runner.scripted_cloud import Script, due_now
from workers.runner import Runner


@pytest.mark.long
@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk"])
def test_a_deadline_that_passes_ends_the_work_with_a_clean_cloud(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, step: str
) -> None:
    settings = dataclasses.replace(settings, deadline_seconds=0.5)
    script.on[step] = lambda: time.sleep(0.6)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert now.error == "given up: not published within 0.5 s of its acceptance"
    assert now.reason == Reason.DEADLINE
    assert script.images == {}
    assert "finish" not in script.asked


def test_a_ticket_that_waited_past_its_deadline_fails_without_a_call(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("connect", TransientCloudError("Keystone is away"))
    assert runner.run(ticket.id) is State.QUEUED
    put_back(sqlite_store, ticket, accepted=86401, not_before=0.01)
    script.asked.clear()
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == (
        "given up: not published within 24 h of its acceptance; the last error: Keystone is away"
    )
    assert script.asked == []
    assert sqlite_store.tickets.retry(ticket.id).reason is None
    script.on.clear()
    assert runner.run(ticket.id) is State.PUBLISHED, "its owner gave it another day"


def test_no_wait_goes_beyond_the_deadline(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    script.fail("chunk", TransientCloudError("slow down", retry_after_seconds=5000))
    put_back(sqlite_store, ticket, accepted=86400 - 30)
    assert runner.run(ticket.id) is State.QUEUED
    now = current(sqlite_store, ticket)
    assert 28 < now.not_before - now.modified < 31
    put_back(sqlite_store, ticket, accepted=86401, not_before=0.01)
    script.fail("delete", TransientCloudError("Glance is away"))
    for _ in range(4):  # only the clean-up is tried again
        runner.run(ticket.id)
        due_now(sqlite_store, ticket)
    assert script.asked.count("upload") == 1
    now = current(sqlite_store, ticket)
    assert now.state is State.FAILED
    assert (now.error or "").count("given up") == 1
    assert "may be left in the cloud" in (now.error_detail or "")


@pytest.mark.parametrize(("seconds", "state"), [(0.0, State.PUBLISHED), (86400.0, State.FAILED)])
def test_an_old_ticket_fails_only_if_there_is_a_deadline(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, seconds: float, state: State
) -> None:
    put_back(sqlite_store, ticket, accepted=90000)
    settings = dataclasses.replace(settings, deadline_seconds=seconds)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is state
