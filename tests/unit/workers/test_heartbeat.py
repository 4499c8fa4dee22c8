"""A worker's heartbeat reports its state, and receives requests to drain."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest

from publisher.store import Store
from publisher.store.engine import open_engine
from publisher.store.fleet import Member, WorkerState
from tests.patience import PATIENCE
from tests.stack import until
from workers.drain import Drain
from workers.heartbeat import Heartbeat

ME = Member("here-1", "here", 1, "publisher@here", "0.1.0", 4)


class Asked(Drain):
    """Counts the requests to drain instead of stopping the tests."""

    times = 0

    def begin(self) -> None:
        self.times += 1
        self.begun.set()


def state(store: Store) -> WorkerState | None:
    return next((each.state(10.0) for each in store.fleet.workers()), None)


def test_worker_is_listed_as_alive_draining_and_stopped(sqlite_store: Store) -> None:
    drain = Asked(60)
    heart = Heartbeat(sqlite_store.fleet, ME, 0.02, drain)
    heart.start()
    until(lambda: state(sqlite_store) is WorkerState.ALIVE, 10)
    sqlite_store.fleet.ask_to_drain(ME.name)
    assert drain.begun.wait(10 * PATIENCE)
    assert state(sqlite_store) is WorkerState.DRAINING
    heart.stop()
    heart.stop()
    assert state(sqlite_store) is WorkerState.STOPPED


def test_worker_that_a_signal_stops_is_listed_as_draining(sqlite_store: Store) -> None:
    drain = Asked(60)
    heart = Heartbeat(sqlite_store.fleet, ME, 0.02, drain)
    heart.start()
    until(lambda: state(sqlite_store) is WorkerState.ALIVE, 10)
    drain.begun.set()
    until(lambda: state(sqlite_store) is WorkerState.DRAINING, 10)
    heart.stop()


def test_restarted_worker_ignores_an_earlier_request_to_drain(sqlite_store: Store) -> None:
    sqlite_store.fleet.join(ME)
    sqlite_store.fleet.ask_to_drain(ME.name)
    drain = Asked(60)
    heart = Heartbeat(sqlite_store.fleet, ME, 0.02, drain)
    heart.start()
    until(lambda: state(sqlite_store) is WorkerState.ALIVE, 10)
    heart.stop()
    assert drain.times == 0


@pytest.mark.long
def test_heartbeat_survives_a_store_that_does_not_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(open_engine(f"sqlite:///{tmp_path / 'publisher.db'}"))  # without a table
    heart = Heartbeat(store.fleet, ME, 0.02, Drain(60))
    with caplog.at_level(logging.WARNING):
        heart.start()
        until(lambda: "did not answer the heartbeat" in caplog.text, 10)
        store.migrate()
        until(lambda: state(store) is WorkerState.ALIVE, 10)
        heart.stop()
    assert caplog.text.count("did not answer") == 1, "it is said once, not at every beat"
    store.close()


def test_heartbeat_survives_an_unexpected_error(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, times = sqlite_store.fleet.join, 0

    def join(member: Member) -> None:
        nonlocal times
        times += 1
        if times < 4:
            raise RuntimeError("a mistake")
        real(member)

    monkeypatch.setattr(sqlite_store.fleet, "join", join)
    heart = Heartbeat(sqlite_store.fleet, ME, 0.02, Drain(60))
    heart.start()
    until(lambda: state(sqlite_store) is WorkerState.ALIVE, 10)
    heart.stop()
    assert caplog.text.count("unexpected, at the heartbeat") == 1


def test_drain_begins_as_if_by_one_sigterm() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    drain = Drain(60)
    try:
        drain.begin()
        assert not drain.begun.is_set(), "nobody listens"
        drain.listen()
        drain.begin()
        until(lambda: heard == [signal.SIGTERM], 10)
        drain.begin()
        assert drain.begun.is_set()
        assert not drain.over, "asked once, however often it was said"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
