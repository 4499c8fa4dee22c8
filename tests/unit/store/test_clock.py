"""The clock that an SQLite database is told, and what else might wait by the time of day."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.util import queue

from publisher.store import Store
from publisher.store.clock import SteadyClock
from publisher.store.engine import db_now, open_engine, reading

HOUR = 3600.0


@pytest.mark.parametrize("moved", [-HOUR, HOUR, 48 * HOUR, -48 * HOUR])
def test_the_clock_never_jumps_and_comes_near_in_the_end(moved: float) -> None:
    day, steady = [1000 * HOUR], [5.0]
    clock = SteadyClock(lambda: day[0], lambda: steady[0])
    assert clock.now() == 1000 * HOUR
    day[0] += moved
    assert clock.now() == 1000 * HOUR, "no time has passed"
    before = clock.now()
    for _ in range(48 * 10 + 1):
        day[0] += HOUR
        steady[0] += HOUR
        now = clock.now()
        assert 0.9 * HOUR - 1e-3 <= now - before <= 1.1 * HOUR + 1e-3
        before = now
    assert now == pytest.approx(day[0])


def test_the_clock_follows_small_corrections() -> None:
    day, steady = [1000.0], [0.0]
    clock = SteadyClock(lambda: day[0], lambda: steady[0])
    for _ in range(100):
        day[0] += 1.0001
        steady[0] += 1.0
        assert clock.now() == pytest.approx(day[0], abs=1e-6)


@pytest.mark.parametrize("moved", [-HOUR, 48 * HOUR])
def test_a_store_on_sqlite_does_not_see_its_machines_clock_move(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, moved: float
) -> None:
    def now() -> float:
        with reading(sqlite_store.engine) as connection:
            return connection.execute(db_now().select()).scalar_one()

    first, real = now(), time.time
    clock = sqlite_store.engine.get_execution_options()["publisher_clock"]
    monkeypatch.setattr(clock, "_time_of_day", lambda: real() + moved)
    assert 0 <= now() - first < 600


def test_a_pool_does_not_wait_by_the_time_of_day(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back while somebody waits for a connection, the clock would make minutes of seconds."""
    engine = open_engine(sqlite_url)
    engine.pool._timeout = 0.5  # type: ignore[attr-defined]
    held = [engine.connect() for _ in range(30)]
    ticks = iter(range(10**6))
    monkeypatch.setattr(queue, "_time", lambda: -float(next(ticks)) * HOUR)
    failed = threading.Event()

    def wait() -> None:
        with pytest.raises(NoConnection):
            engine.connect()
        failed.set()

    threading.Thread(target=wait, daemon=True).start()
    assert failed.wait(30)
    for each in held:
        each.close()
    with engine.connect():
        """There is room again."""
    engine.dispose()
