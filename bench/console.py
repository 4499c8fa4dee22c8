"""Measure how fast the console's list of publications loads, with 100,000 tickets in the store.

    python -m bench.console [TICKETS] [--rounds N]

Intakes on SQLite and on PostgreSQL run in processes of their own, as `publisher serve` starts them. This process
requests one page at a time, as a signed-in browser does. The exit code is 1 if the first page's median exceeds its
limit.
"""

from __future__ import annotations

import argparse
import http.client
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, select, text

from bench.longpoll import LOGIN, PASSWORD, Intake, add_tickets, intake
from publisher.core.ticket import State
from publisher.store import Store
from publisher.store.database import tickets, users, writing
from tests.servers.postgres import postgres_server

TICKETS = 100_000
FIRST_PAGE_SECONDS = 0.1
"""Limit for the median time of the first page."""
_ROWS_AT_ONCE = 10_000
_OWNERS = 100
_FAILED_PART = 0.02
_GOING_ON = 200
"""Number of the newest tickets, which are in every state."""

PAGES = {
    "the first page": "",
    "… of those that failed": "?state=failed",
    "… of one user's": "?owner=user7",
    "… of a platform with few": "?platform=memory",
    "a page in the middle": f"?before={TICKETS // 2}",
    "a search that finds many": "?q=web",
    "a search that finds nothing": "?q=nothing",
}


@dataclass(frozen=True)
class Visitor:
    """A signed-in browser."""

    connection: http.client.HTTPConnection
    cookie: str

    def seconds(self, query: str) -> float:
        """Return the seconds until the whole page has arrived."""
        began = time.perf_counter()
        self.connection.request("GET", f"/console/publications{query}", headers={"Cookie": self.cookie})
        answer = self.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"/console/publications{query}: {answer.status}")
        return time.perf_counter() - began


def sign_in(port: int) -> Visitor:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    connection.request("POST", "/console/sign-in", urlencode({"login": LOGIN, "password": PASSWORD}), headers)
    answer = connection.getresponse()
    answer.read()
    return Visitor(connection, (answer.headers["Set-Cookie"] or "").partition(";")[0])


def fill(store: Store, count: int) -> None:
    """Add tickets of many users, mostly published; the newest ones are in every state."""
    chance = random.Random(1)  # noqa: S311  # no secret
    add_tickets(store, 1)
    with writing(store.engine) as connection:
        connection.execute(users.update().values(administrator=True))
        row = dict(connection.execute(select(tickets)).one()._mapping)
        for start in range(row["id"] + 1, count + 1, _ROWS_AT_ONCE):
            numbers = range(start, min(start + _ROWS_AT_ONCE, count + 1))
            connection.execute(insert(tickets), [row | _one(chance, number, count) for number in numbers])
    if store.engine.dialect.name == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE tickets"))


def _one(chance: random.Random, number: int, count: int) -> dict[str, object]:
    state = State.FAILED if chance.random() < _FAILED_PART else State.PUBLISHED
    return {
        "id": number,
        "uid": str(uuid.uuid4()),
        "owner": f"user{number % _OWNERS}",
        "state": chance.choice(list(State)) if number > count - _GOING_ON else state,
        "platform": "memory" if number % 1000 == 0 else "openstack",
        "name": f"web server {number}",
    }


@contextmanager
def filled(directory: Path, database_url: str, count: int) -> Iterator[Intake]:
    directory.mkdir()
    with intake(directory, database_url) as running:
        fill(running.store, count)
        yield running


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tickets", nargs="?", type=int, default=TICKETS, help="number of tickets in the store (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=30, help="number of rounds (default: %(default)s)")
    arguments = parser.parse_args()
    with ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        intakes = {
            name: running.enter_context(filled(directory / name, url, arguments.tickets))
            for name, url in (
                ("SQLite", ""),
                ("PostgreSQL", running.enter_context(postgres_server()).fresh()),
            )
        }
        visitors = {name: sign_in(each.port) for name, each in intakes.items()}
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(arguments.rounds):
            for page, query in PAGES.items():
                for name, visitor in visitors.items():
                    times.setdefault((page, name), []).append(visitor.seconds(query))
    table = Table(f"the console's list, {arguments.tickets:,} tickets", *visitors, box=None)
    for page in PAGES:
        table.add_row(page, *(_told(times[page, name]) for name in visitors))
    Console().print(table)
    slow = [name for name in visitors if statistics.median(times["the first page", name]) > FIRST_PAGE_SECONDS]
    if slow:
        print(
            f"The first page takes more than {FIRST_PAGE_SECONDS * 1000:.0f} ms on {', '.join(slow)}", file=sys.stderr
        )
    return 1 if slow else 0


def _told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms, at most {max(seconds) * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
