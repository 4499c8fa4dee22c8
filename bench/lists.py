"""Measure the lists of all published images and of their statuses with very many tickets.

    python -m bench.lists [--tickets 100000]

One caller requests each list on SQLite and on PostgreSQL. The output shows the time to the first byte of the body, the
CPU time of the intake, and how much more memory the intake takes than before. The exit code is 1 if a limit is
exceeded.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.earlier import PRESENT
from bench.intake import AUTHORIZATION, LOGIN, Intake, intake
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server

FIRST_BYTE_SECONDS = 0.1
MEMORY_MIB = 20
LISTS = (f"/api/users/{LOGIN}/pimages", f"/api/users/{LOGIN}/pimages/status")
_FIRST_BYTE_ROUNDS = 5
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Measured:
    """One list. Sizes are bytes."""

    first_byte_seconds: float
    """The median of some requests."""
    unchanged_seconds: float
    """Time until a 304."""
    cpu_seconds: float
    size: int
    memory: int
    """How much more memory the intake took than before, at most."""


def measure(running: Intake, path: str) -> Measured:
    process = psutil.Process(running.pid)
    first = statistics.median(_first_byte(running.port, path)[0] for _ in range(_FIRST_BYTE_ROUNDS))
    idle, size, most = process.memory_info().rss, 0, 0
    began = _cpu_seconds(process)
    _, connection, answer = _first_byte(running.port, path)
    etag = answer.headers["ETag"]
    while chunk := answer.read(_CHUNK_BYTES):
        size += len(chunk)
        most = max(most, process.memory_info().rss)
    taken = _cpu_seconds(process) - began
    connection.close()
    unchanged, connection, answer = _first_byte(running.port, path, etag)
    connection.close()
    if answer.status != http.client.NOT_MODIFIED:
        raise RuntimeError(f"{answer.status} instead of 304")
    return Measured(first, unchanged, taken, size, max(0, most - idle))


def _first_byte(
    port: int, path: str, etag: str = ""
) -> tuple[float, http.client.HTTPConnection, http.client.HTTPResponse]:
    """Request a list and read its first byte. Return how long that took. The caller may read the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    started = time.perf_counter()
    connection.request(
        "GET", path, headers={"Authorization": AUTHORIZATION} | ({"If-None-Match": etag} if etag else {})
    )
    answer = connection.getresponse()
    answer.read(1)
    return time.perf_counter() - started, connection, answer


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=int, default=100_000, help="tickets in the store (default: %(default)s)")
    given = parser.parse_args()
    table = Table("list", "first byte", "304", "CPU", "size", "memory", title=f"{given.tickets:,} tickets")
    within = True
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="publisher-bench-")))
        broker_url = stack.enter_context(redis_server()).url
        postgres = stack.enter_context(postgres_server(durable=True))
        for database in ("SQLite", "PostgreSQL"):
            url = postgres.fresh() if database == "PostgreSQL" else ""
            with intake(PRESENT, directory / database, url, broker_url, given.tickets) as (running, _):
                _first_byte(running.port, f"/api/users/{LOGIN}")  # hashes the password
                for path in LISTS:
                    found = measure(running, path)
                    within &= found.first_byte_seconds <= FIRST_BYTE_SECONDS and found.memory <= MEMORY_MIB << 20
                    table.add_row(
                        f"{path}, {database}",
                        f"{found.first_byte_seconds:.3f} s",
                        f"{found.unchanged_seconds:.3f} s",
                        f"{found.cpu_seconds:.1f} s",
                        f"{found.size >> 20} MiB",
                        f"{found.memory / (1 << 20):.1f} MiB",
                    )
    console = Console(width=120)
    console.print(table)
    console.print(f"Limits: {FIRST_BYTE_SECONDS} s, {MEMORY_MIB} MiB: {'kept' if within else 'EXCEEDED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
