"""A plugin's call that takes too long ends the attempt, but neither the ticket nor the worker."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import pytest

import workers.cloud_work
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from tests.records import current, put_back
from tests.unit.workers.runner.scripted_cloud import SECRET, Script, scripted
from workers.clouds.base import CloudImage, TicketRef
from workers.runner import Runner

STEPS = ["connect", "check", "find", "upload", "chunk", "finish"]


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_a_sleeping_call_blocks_neither_the_ticket_nor_the_thread(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, step: str
) -> None:
    """A library sleeps like this if it waits for a wall-clock time and the clock is set back."""
    wake_up, woken = threading.Event(), threading.Event()
    settings = dataclasses.replace(
        settings, connect_timeout_seconds=0.1, call_timeout_seconds=0.1, verify_seconds=0.1, retry_first_seconds=0.001
    )

    def sleep() -> None:
        if script.asked.count(step) == 1:
            assert wake_up.wait(120)
            woken.set()

    script.on[step] = sleep
    try:
        runner = Runner(sqlite_store, vault, settings, worker="a")
        assert runner.run(ticket.id) is State.QUEUED
        called = "upload" if step == "chunk" else step
        assert f"the plugin's call '{called}' gave no sign of life for" in str(current(sqlite_store, ticket).error)
    finally:
        wake_up.set()
    assert woken.wait(30)
    # Long limits, because a slow machine must not look like a sleeping plugin.
    patient = dataclasses.replace(settings, connect_timeout_seconds=60, call_timeout_seconds=60)
    put_back(sqlite_store, ticket, not_before=1)
    assert Runner(sqlite_store, vault, patient, worker="a").run(ticket.id) is State.PUBLISHED
    assert script.secrets == [{"password": SECRET}] * 2, "signed in anew: the call before may still use its connections"


@pytest.mark.long
def test_a_call_that_loops_for_ever_is_stopped(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call keeps checking whether to continue but makes no progress."""
    ended = threading.Event()

    class Restless(scripted(Script())):  # type: ignore[misc]  # made by the call
        def __init__(self, check: Callable[[], None]) -> None:
            self._look = check

        @classmethod
        def connect(cls, account: Any, target: Any, timeouts: Any, policy: Any, check: Any = None) -> Self:
            return cls(check)

        def find(self, ticket: TicketRef) -> CloudImage | None:
            try:
                while True:
                    self._look()
                    time.sleep(0.01)
            finally:
                ended.set()

    monkeypatch.setattr(workers.cloud_work, "plugin", lambda platform: Restless)
    settings = dataclasses.replace(settings, call_timeout_seconds=0.02, verify_seconds=0.5)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is State.QUEUED
    assert "'find' did not end within" in str(current(sqlite_store, ticket).error)
    assert ended.wait(30), "it stops, once its attempt has ended"
