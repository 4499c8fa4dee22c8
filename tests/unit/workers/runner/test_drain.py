"""A draining worker finishes its uploads, or hands its tickets back."""

import pytest

from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.services.wakeups import Wakeups
from publisher.store import Store
from tests.records import current
from tests.unit.workers.runner.scripted_cloud import Script, Waker
from workers.drain import Drain
from workers.runner import Runner


def test_a_drain_finishes_the_upload_and_takes_no_new_ticket(
    ticket: Ticket, runner: Runner, script: Script, drain: Drain, waker: Waker
) -> None:
    script.on["connect"] = drain.ask
    assert runner.run(ticket.id) is State.PUBLISHED
    assert waker.sent == []
    assert runner.run(ticket.id) is None


@pytest.mark.parametrize("how", ["at once", "asked twice", "time is up"])
@pytest.mark.parametrize("step", ["connect", "find", "chunk"])
def test_a_ticket_is_handed_back_when_the_drain_is_over(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, waker: Waker, step: str,
    how: str,
) -> None:  # fmt: skip
    drain = Drain(0 if how == "time is up" else 60)
    runner = Runner(sqlite_store, vault, settings, worker="a", drain=drain, wakeups=Wakeups(sqlite_store, waker))

    def ask() -> None:
        drain.ask(now=how == "at once")
        if how == "asked twice":
            drain.ask()

    script.on[step] = ask
    assert runner.run(ticket.id) is State.QUEUED
    assert waker.sent == [ticket.id], "another worker is told at once"
    now = current(sqlite_store, ticket)
    assert (now.state, now.attempt, now.error, now.worker) == (State.QUEUED, 0, None, None)
    assert sqlite_store.tickets.due() == [ticket.id]
    assert runner.run(ticket.id) is None, "a worker that ends takes nothing new"
    script.on.clear()
    assert Runner(sqlite_store, vault, settings, worker="b").run(ticket.id) is State.PUBLISHED
    assert len(script.images) == 1
