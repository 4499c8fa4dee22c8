"""The connection to the database, as many threads of one process share it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, text

from publisher.store import engine as module
from publisher.store.engine import open_engine, writing
from tests.patience import PATIENCE


def test_threads_that_write_wait_for_each_other_and_not_for_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(module, "_BUSY_SECONDS", 0)  # SQLite itself gives up at once
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


def test_a_connection_that_was_made_is_kept(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    made: list[object] = []
    event.listen(engine, "connect", lambda connection, _: made.append(connection))
    for _ in range(2):
        for connection in [engine.connect() for _ in range(25)]:
            connection.close()
    assert len(made) == 25
    engine.dispose()


def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
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


def test_what_is_committed_is_seen_by_every_process(tmp_path: Path) -> None:
    """A further connection must not drop the locks of those that are open: another process would take itself for the
    last one, and delete the write-ahead log that this one goes on writing to."""

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
