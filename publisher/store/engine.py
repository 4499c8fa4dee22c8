"""Opens the database: SQLite (write-ahead log) or PostgreSQL. The rest of the store is the same for both."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from select import POLLIN, poll
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import queue

from publisher.core.directories import make_directory
from publisher.core.errors import ConfigurationError
from publisher.store.database import ALONE, DURABLE, TURN, UNTIL, WRITING, busy_seconds, run_on_driver

_CATCH_UP = 0.1
"""How fast the clock of an SQLite database approaches the time of day at most, in seconds per second."""
_CONNECT_SECONDS = 5
_PAUSE_SECONDS = 1.0
"""A connection that was not used for so long may have been lost unnoticed."""


class _SteadyQueue(queue.Queue[Any]):
    """A queue whose waits ignore the time of day. SQLAlchemy's own waits for hours if the clock is set back."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and timeout is not None:
            with self.not_empty:
                if not self.not_empty.wait_for(self._qsize, timeout):
                    raise queue.Empty
                return super().get(block=False)
        return super().get(block, timeout)


class _SteadyPool(QueuePool):
    __module__ = QueuePool.__module__  # the name of its logger
    _queue_class = _SteadyQueue


_POOL: dict[str, Any] = {"poolclass": _SteadyPool, "pool_size": 30, "max_overflow": 0, "pool_timeout": 10}
"""Connections are opened on demand and kept: opening one costs more than a request."""
_BUSY_INFO = "publisher_busy_seconds"
_DURABLE_INFO = "publisher_durable"
_CLOCK = "publisher_clock"
_RETURNED = "publisher_returned"


def _since_boot() -> float:
    """Return seconds from a clock that nobody can set. Includes sleep of the machine if the system supports it."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class SteadyClock:
    """The clock of an SQLite database: seconds since the epoch that never jump and never run backwards.

    SQLite has none of its own. Each process that opens the file reads the time itself.

    The clock follows the time of day. If someone sets that, this clock gains or loses a tenth of each second until both
    agree again. So setting the clock ends no lease or deadline early, and keeps nothing waiting for hours.
    """

    def __init__(self, time_of_day: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._time_of_day = time_of_day
        self._steady = steady
        self._lock = threading.Lock()
        self._now, self._read = time_of_day(), steady()

    def now(self) -> float:
        with self._lock:
            read = self._steady()
            passed, self._read = read - self._read, read
            self._now += passed
            most = passed * _CATCH_UP
            self._now += max(-most, min(most, self._time_of_day() - self._now))
            return self._now


def open_engine(url: str) -> Engine:
    """Open the database. Raises `ConfigurationError` if the URL names no supported database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("PUBLISHER_DATABASE_URL is not a SQLAlchemy database URL") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql":
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                **_POOL,
                connect_args={
                    "connect_timeout": _CONNECT_SECONDS,
                    "options": "-c statement_timeout=30000 -c lock_timeout=10000"
                    " -c idle_in_transaction_session_timeout=60000",
                    "tcp_user_timeout": 20000,
                },
            )
            _check_kept_connections(engine)
            return engine
        case other:
            raise ConfigurationError(f"PUBLISHER_DATABASE_URL: '{other}' is not supported; use sqlite or postgresql")


def _check_kept_connections(engine: Engine) -> None:
    """Make the engine ask PostgreSQL whether a kept connection still works, if that is in doubt.

    This is after a pause, and if the server has sent something unasked, such as the end of the connection. Asking each
    time (`pool_pre_ping`) takes a fifth of the time of a read.
    """

    @event.listens_for(engine, "checkin")
    def _returned(_: object, record: ConnectionPoolEntry) -> None:
        record.info[_RETURNED] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _taken(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        if (returned := record.info.get(_RETURNED)) is None:
            return  # it is new
        try:
            if time.monotonic() - returned > _PAUSE_SECONDS or _has_input(connection):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None


def _has_input(connection: Any) -> bool:
    waiting = poll()
    waiting.register(connection.fileno(), POLLIN)
    return bool(waiting.poll(0))


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("PUBLISHER_DATABASE_URL: SQLite needs a file, for every process to see the tickets")
    file = Path(url.database)
    make_directory(file.parent, 0o700)
    clock = SteadyClock()
    # isolation_level None: the driver must not begin transactions; the listener below does.
    engine = create_engine(
        url,
        **_POOL,
        execution_options={TURN: threading.Lock(), _CLOCK: clock},
        connect_args={"timeout": busy_seconds(), "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "do_connect")
    def _make_private(*_: object) -> None:
        # By itself, SQLite would follow the umask. Its other files get their permissions from this one. Do not open an
        # existing file: closing it would drop the locks that SQLite holds on it in this process (fcntl(2)). Another
        # process would then delete the write-ahead log, and with it committed data.
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: object) -> None:
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        # By default, SQLite makes a file to undo a statement that changes more than 16 pages. Inserting tickets does.
        connection.execute("PRAGMA temp_store = MEMORY")
        # To SQLite, deterministic means: does not change within one statement.
        connection.create_function("publisher_now", 0, clock.now, deterministic=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once if another one has written in between
        # (SQLITE_BUSY_SNAPSHOT). One that takes the write lock at the start waits for its turn.
        options = connection.get_execution_options()
        _wait_until(connection, options.get(UNTIL))
        if options.get(WRITING):
            _flush_commits(connection, bool(options.get(DURABLE)))
            run_on_driver(connection, "BEGIN IMMEDIATE")
        elif not options.get(ALONE):
            run_on_driver(connection, "BEGIN")

    return engine


def _wait_until(connection: Connection, moment: float | None) -> None:
    """Make SQLite wait for locks until this moment (by `time.monotonic`), or for the default time if it is None."""
    seconds: float = busy_seconds()
    if moment is not None and moment - time.monotonic() < busy_seconds() - 1:
        seconds = max(moment - time.monotonic(), 0.05)
    if connection.info.get(_BUSY_INFO, busy_seconds()) != seconds:
        run_on_driver(connection, f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        connection.info[_BUSY_INFO] = seconds


def _flush_commits(connection: Connection, durable: bool) -> None:
    """Make each commit of an SQLite connection wait for the disk, or none."""
    if connection.info.get(_DURABLE_INFO) is not durable:
        run_on_driver(connection, f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.info[_DURABLE_INFO] = durable


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Turn on the write-ahead log.

    Two processes that create the file together block each other, and for this one statement SQLite does not wait.
    """
    deadline = time.monotonic() + busy_seconds()
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
