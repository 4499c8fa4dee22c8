"""The engine: threads, processes and the clock of an SQLite database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.util import queue

from publisher.store import Store, database
from publisher.store.database import db_now, reading, writing
from publisher.store.engine import SteadyClock, open_engine
from tests.patience import PATIENCE

HOUR = 3600.0


def test_writing_threads_take_turns_before_they_reach_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(database, "_BUSY_SECONDS", 0)  # SQLite itself gives up at once
        engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
        engine.connect().close()
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE written (number INTEGER)"))
    together = threading.Barrier(8, timeout=30 * PATIENCE)

    def write(number: int) -> None:
        together.wait()
        with writing(engine) as connection:
            connection.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    with engine.connect() as connection:
        assert set(connection.execute(text("SELECT number FROM written")).scalars()) == set(range(8))
    engine.dispose()


def test_connections_are_kept_open(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    made: list[object] = []
    event.listen(engine, "connect", lambda connection, _: made.append(connection))
    for _ in range(2):
        for connection in [engine.connect() for _ in range(25)]:
            connection.close()
    assert len(made) == 25
    engine.dispose()


def test_only_a_durable_transaction_waits_for_the_disk(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    for durable in (True, False, False, True):  # over one connection
        with writing(engine, durable=durable) as connection:
            assert connection.execute(text("PRAGMA synchronous")).scalar_one() == (2 if durable else 1)
    engine.dispose()


def test_only_the_owner_can_read_the_database_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        engine = open_engine(f"sqlite:///{tmp_path / 'data' / 'store.db'}")
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE written (number INTEGER)"))
            modes = {each.name: each.stat().st_mode & 0o777 for each in (tmp_path / "data").iterdir()}
        engine.dispose()
    finally:
        os.umask(before)
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


_OTHER_PROCESS = """\
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print([row[0] for row in connection.execute("SELECT number FROM written ORDER BY number")])
connection.close()
"""


def test_another_process_sees_what_is_committed(tmp_path: Path) -> None:
    """A further connection must not drop the locks of the open ones.

    Otherwise another process would take itself for the last one, and delete the write-ahead log that this one uses."""

    def seen() -> str:
        command = [sys.executable, "-c", _OTHER_PROCESS, str(tmp_path / "store.db")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    def write(number: int) -> None:
        with writing(engine) as connection:
            connection.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})

    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE written (number INTEGER)"))
    first, second = engine.connect(), engine.connect()
    write(1)
    assert seen() == "[1]"
    write(2)
    assert seen() == "[1, 2]"
    first.close()
    second.close()
    engine.dispose()


@pytest.mark.parametrize("moved", [-HOUR, HOUR, 48 * HOUR, -48 * HOUR])
def test_the_clock_never_jumps_and_approaches_the_time_of_day(moved: float) -> None:
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
def test_sqlite_ignores_jumps_of_the_machine_clock(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, moved: float
) -> None:
    def now() -> float:
        with reading(sqlite_store.engine) as connection:
            return connection.execute(db_now().select()).scalar_one()

    first, real = now(), time.time
    clock = sqlite_store.engine.get_execution_options()["publisher_clock"]
    monkeypatch.setattr(clock, "_time_of_day", lambda: real() + moved)
    assert 0 <= now() - first < 600


@pytest.mark.long
def test_the_pool_does_not_wait_by_the_time_of_day(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the clock is set back while a thread waits for a connection, seconds would become minutes."""
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
        pass  # a connection is free again
    engine.dispose()
