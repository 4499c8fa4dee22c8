"""A worker keeps its lease while it works, and stops if it loses it."""

import dataclasses
import time

import pytest

from publisher.core.errors import (
    LeaseLost,
    PermanentCloudError,
)
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from tests.patience import PATIENCE
from tests.records import current, words
from tests.unit.workers.runner.scripted_cloud import Script, cloud_ids, take_over
from workers.drain import Drain
from workers.runner import Runner


@pytest.mark.long
def test_a_long_upload_keeps_its_lease(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    settings = dataclasses.replace(settings, lease_seconds=2.0, lease_renew_seconds=0.1, progress_seconds=0.05)
    others: list[object] = []

    def dawdle() -> None:
        time.sleep(1.0)
        others.append(sqlite_store.leases.claim(ticket.id, "another", 60))

    script.on["chunk"] = dawdle
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is State.PUBLISHED
    assert others == [None] * 3


@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk", "finish"])
def test_a_lost_lease_stops_the_work_and_writes_nothing(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str
) -> None:
    after: list[Ticket] = []

    def lose() -> None:
        if not after:
            take_over(sqlite_store, ticket)
            after.append(current(sqlite_store, ticket))

    script.on[step] = lose
    assert runner.run(ticket.id) is None
    assert current(sqlite_store, ticket) == after[0]
    assert current(sqlite_store, ticket).worker == "another"
    assert "delete" not in script.asked, "what is there belongs to the other worker now"
    assert words(sqlite_store, ticket)[-1].endswith("claimed by another")


@pytest.mark.parametrize(("why", "state"), [("failed", State.PUBLISHING), ("cancelled", State.CANCELLING)])
def test_a_lease_lost_while_cleaning_up_writes_nothing(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, why: str, state: State
) -> None:
    def end() -> None:
        if why == "failed":
            raise PermanentCloudError("quota")
        sqlite_store.tickets.request_cancel(ticket.id)

    script.on["chunk"] = end
    script.on["delete"] = lambda: take_over(sqlite_store, ticket)
    assert runner.run(ticket.id) is None
    now = current(sqlite_store, ticket)
    assert (now.worker, now.state) == ("another", state)
    assert now.error is None
    assert cloud_ids(sqlite_store, ticket) == ["condemned"]


def test_a_lease_lost_error_from_a_plugin_ends_the_attempt(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("upload", LeaseLost())
    assert runner.run(ticket.id) is None
    assert current(sqlite_store, ticket).state is State.PUBLISHING


@pytest.mark.long
def test_a_paused_worker_stops_by_its_own_clock(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    """The thread that renews the lease was paused, too. The worker must stop although no other one has a claim."""
    settings = dataclasses.replace(settings, lease_seconds=0.2, lease_renew_seconds=60, progress_seconds=60)
    script.on["created"] = lambda: time.sleep(0.3)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is None
    assert "chunk" not in script.asked


@pytest.mark.long
def test_a_paused_worker_claims_its_ticket_again_if_no_other_did(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    """The thread that renews the lease is paused, too, as by SIGSTOP."""
    settings = dataclasses.replace(settings, lease_seconds=5, lease_renew_seconds=60, progress_seconds=60)
    paused: list[float] = []

    def pause() -> None:
        if not paused:
            paused.append(time.monotonic())
            time.sleep(5.5)

    script.on["created"] = pause
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id, go_on=True) is State.PUBLISHED
    assert time.monotonic() - paused[0] < 5.5 + 5 * PATIENCE
    assert current(sqlite_store, ticket).attempt == 2
    assert len(script.images) == 1


@pytest.mark.long
def test_a_draining_worker_leaves_a_lost_lease_to_others(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, drain: Drain
) -> None:
    """A draining worker claims nothing again, and other workers can claim the ticket."""
    settings = dataclasses.replace(settings, lease_seconds=5, lease_renew_seconds=60, progress_seconds=60)

    def pause() -> None:
        time.sleep(5.5)
        drain.ask()

    script.on["created"] = pause
    assert Runner(sqlite_store, vault, settings, worker="a", drain=drain).run(ticket.id, go_on=True) is None
    assert sqlite_store.tickets.due() == [ticket.id]
    assert sqlite_store.leases.claim(ticket.id, "another", 60)
