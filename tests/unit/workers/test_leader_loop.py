"""The worker that holds a role has its turns, and renews the role in time without asking for it at each turn."""

import threading
from collections.abc import Callable

import pytest

from publisher.store import Store
from publisher.store.fleet import Leadership
from tests.patience import PATIENCE
from workers.leader_loop import LeaderLoop

ROLE = "cook"
TERM_SECONDS = 60.0


class Kitchen:
    """A loop of a worker whose turns take no time, and a clock that the test sets."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, *, renews: bool = True) -> None:
        self.now = 0.0
        self.asked: list[float] = []
        self._stop = threading.Event()
        self._loop = LeaderLoop(
            store, ROLE, holder="a", look_seconds=0, term_seconds=TERM_SECONDS, stop=self._stop, renews=renews
        )
        acquire = Leadership.acquire

        def watched(leadership: Leadership, role: str, holder: str, seconds: float) -> bool:
            self.asked.append(self.now)
            return acquire(leadership, role, holder, seconds)

        monkeypatch.setattr(Leadership, "acquire", watched)
        monkeypatch.setattr("workers.leader_loop.time.monotonic", lambda: self.now)

    def run(self, *moments: float, turn: Callable[[], None] = lambda: None) -> list[float]:
        """Look at each of these moments, and return when there was a turn."""
        turns: list[float] = []
        coming = iter(moments)

        def wait(_: float) -> bool:
            self.now = next(coming, -1.0)
            return self.now < 0

        def noted() -> None:
            turns.append(self.now)
            turn()

        self._stop.wait = wait  # type: ignore[method-assign,assignment]
        self._loop.run(noted)
        return turns


def test_holder_renews_only_when_half_of_the_term_is_over(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(sqlite_store, monkeypatch)
    assert kitchen.run(0, 20, 40, 50, 69, 70) == [0, 20, 40, 50, 69, 70]
    assert kitchen.asked == [0, 40, 70]


def test_role_of_another_is_asked_for_at_each_look(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sqlite_store.leadership.acquire(ROLE, "b", TERM_SECONDS)
    kitchen = Kitchen(sqlite_store, monkeypatch)
    assert kitchen.run(0, 1, 2) == []
    assert kitchen.asked == [0, 1, 2]


def test_role_that_is_not_renewed_gives_one_turn(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(sqlite_store, monkeypatch, renews=False)
    assert kitchen.run(0, 1, 2) == [0]
    assert kitchen.asked == [0, 1, 2]


def test_role_is_free_once_its_holder_stops(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Kitchen(sqlite_store, monkeypatch).run(0) == [0]
    assert sqlite_store.leadership.acquire(ROLE, "b", TERM_SECONDS)


def test_turn_that_fails_does_not_end_the_turns(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError

    assert Kitchen(sqlite_store, monkeypatch).run(0, 1, turn=fail) == [0, 1]


def test_loop_ends_when_the_worker_stops(sqlite_store: Store) -> None:
    stop, had = threading.Event(), threading.Event()
    loop = LeaderLoop(sqlite_store, ROLE, holder="a", look_seconds=0.01, term_seconds=60, stop=stop)
    thread = threading.Thread(target=loop.run, args=(had.set,))
    thread.start()
    assert had.wait(20 * PATIENCE)
    stop.set()
    thread.join(20 * PATIENCE)
    assert not thread.is_alive()
