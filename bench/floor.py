"""The lower limit for the intake's benchmark: the least that accepting a ticket costs, without HTTP, user and checks.

It is a loop of one INSERT, committed to the disk, and one `apply_async`.

Reads {"database_url", "broker_url", "seconds"} as JSON from standard input, and writes a `bench.load.Report` as JSON.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict

import psycopg
from celery import Celery
from sqlalchemy import make_url

from bench.load import Report
from publisher.store.database import tickets

_COPIED = ", ".join(column.name for column in tickets.columns if column.name not in ("id", "uid"))
_INSERT = f"INSERT INTO tickets (uid, {_COPIED}) SELECT {{}}, {_COPIED} FROM tickets WHERE id = 1"  # noqa: S608


def inserting(database_url: str) -> Callable[[str], object]:
    """Return a function that inserts a ticket like the first one, in its own transaction, through the bare driver."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(url.database), isolation_level=None, timeout=10)
        connection.execute("PRAGMA synchronous = FULL")
        return lambda uid: connection.execute(_INSERT.format("?"), (uid,))
    server = psycopg.connect(database_url, autocommit=True)
    return lambda uid: server.execute(_INSERT.format("%s"), (uid,))


def loop(database_url: str, broker_url: str, seconds: float) -> Report:
    insert = inserting(database_url)
    app = Celery("floor", broker=broker_url)

    @app.task(name="floor.wake", ignore_result=True)  # type: ignore[untyped-decorator]
    def wake(ticket_id: int) -> None: ...

    wake.apply_async((0,))  # connects
    report = Report()
    cpu, started = time.process_time(), time.perf_counter()
    now = started
    while now < started + seconds:
        insert(str(uuid.uuid4()))
        wake.apply_async((1,))
        before, now = now, time.perf_counter()
        report.latencies.append(now - before)
    report.seconds = now - started
    report.server_cpu = report.cpu = time.process_time() - cpu
    return report


if __name__ == "__main__":
    json.dump(asdict(loop(**json.load(sys.stdin))), sys.stdout)
