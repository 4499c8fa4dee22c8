"""Measure how many publish requests and status polls one intake process answers per second.

The intake runs on SQLite and on PostgreSQL, as `publisher serve` starts it, with a real Redis and no worker. The same
rounds also measure a peer, Flower's `POST /api/task/send-task`, which stores no ticket, and a floor, a bare loop of an
INSERT committed to disk and an `apply_async` (see bench/floor.py). The output shows the medians of all rounds, and
ratios round by round. Polls ask for random tickets in a small store and in a large one: both must cost the same.

An earlier state of the code (`--before`) answers the same requests in the same rounds, so that a gain is a ratio, too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, select, text

from bench.earlier import BEFORE, PRESENT, REPOSITORY, Version, earlier
from bench.load import Load, Report, report_of, run
from publisher.cli import programs
from publisher.core.image import Digests, image_uri
from publisher.core.settings import Settings
from publisher.core.ticket import Phase, State, ticket_uri
from publisher.intake.wire.formats import Format
from publisher.intake.wire.writing import write_document
from publisher.store import Store
from publisher.store.database import reading, tickets, writing
from publisher.store.new_tickets import NewTicket
from tests.records import create_ticket
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.process import Server, free_port, listens
from tests.servers.redis import redis_server

LOGIN, PASSWORD = "root", "a-password-of-benchmarks"
AUTHORIZATION = "Basic " + b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()
APPLIANCE = 4
SMALL = 100
"""Number of tickets in the small store."""
FLAT = 0.2
"""How much the poll rate of the large store may differ from that of the small one, as a fraction."""
ROWS_AT_ONCE = 10_000

Way = Callable[[], Report]


@dataclass(frozen=True)
class Intake:
    """An intake process over a store that holds tickets 1 to `count`, all of one image."""

    port: int
    pid: int
    image_id: int
    count: int
    database_url: str

    def publish(self, clients: int, seconds: float) -> Report:
        """POST a publish request for an image with its cloud account, in XML as UForge clients write it."""
        headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/xml"}
        path = f"/api/users/{LOGIN}/appliances/{APPLIANCE}/pimages"
        body = publish_request(self.image_id).decode()
        return run(Load(self.port, "POST", [path], headers, body, clients, seconds), self.pid, "201")

    def polls(self, clients: int, seconds: float) -> tuple[Way, Way]:
        """Return two functions: a GET of the status of random tickets, and the same with the ETags of the first."""
        known: dict[str, str] = {}
        headers = {"Authorization": AUTHORIZATION}

        def plain() -> Report:
            paths = [self.status_path(id) for id in range(1, self.count + 1)]
            report = run(Load(self.port, "GET", paths, headers, "", clients, seconds), self.pid, "200")
            known.clear()
            known.update(report.etags)
            return report

        def conditional() -> Report:
            return run(Load(self.port, "GET", list(known), headers, "", clients, seconds, known), self.pid, "304")

        return plain, conditional

    def status_path(self, id: int) -> str:
        return f"/api/{ticket_uri(LOGIN, APPLIANCE, self.image_id, id)}/status"

    def sign_in(self, again: int = 50) -> tuple[float, float]:
        """Return the seconds of the first poll with a password, and the median of later ones.

        One caller, one connection.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        taken: list[float] = []
        for _ in range(1 + again):
            started = time.perf_counter()
            connection.request("GET", self.status_path(1), headers={"Authorization": AUTHORIZATION})
            answer = connection.getresponse()
            answer.read()
            taken.append(time.perf_counter() - started)
            assert answer.status == 200, answer.status
        connection.close()
        return taken[0], statistics.median(taken[1:])


def publish_request(image_id: int) -> bytes:
    document: dict[str, object] = {
        "@type": "PublishImageOpenStack",
        "imageUri": image_uri(LOGIN, APPLIANCE, image_id),
        "credAccount": {
            "@type": "CredAccountOpenStack",
            "glanceUrl": "http://glance.example.com:9292",
            "keystoneUrl": "http://keystone.example.com:5000/v3",
            "login": "admin",
            "password": "a-password-of-the-cloud",
            "keystoneVersion": "v3",
        },
        "keystoneDomain": "default",
        "keystoneProject": "images",
        "displayName": "bench",
    }
    return write_document(Format.XML, "publishImage", document, request=True)


FILL = """
import sys
from bench.intake import fill
from publisher.core.settings import Settings
filled = fill(Settings.from_environment(), int(sys.argv[1]))
print(getattr(filled, "id", filled))
"""


@contextmanager
def intake(
    version: Version, directory: Path, database_url: str, broker_url: str, count: int
) -> Iterator[tuple[Intake, Intake]]:
    """Start an intake over a new store, and a second process of it on another port."""
    ports = free_port(), free_port()
    settings = [
        # The benchmark publishes more than the queue may hold. No password should be hashed in the middle of it.
        Settings(
            data_dir=directory,
            database_url=database_url,
            broker_url=broker_url,
            intake_port=port,
            user_queue_max=0,
            credential_cache_seconds=86400.0,
        )
        for port in ports
    ]
    directory.mkdir()
    own = programs.inherited() | {"PYTHONPATH": str(version.directory)}
    filled = subprocess.run(
        [version.python, "-c", FILL, str(count)],
        cwd=directory, env=own | settings[0].environment(), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    with ExitStack() as stack:
        started: list[Intake] = []
        for each in settings:
            port = each.intake_port
            server = Server(
                [version.python, *programs.intake(each)[1:]],
                directory / f"intake-{port}.log",
                ready=lambda port=port: listens(port),  # type: ignore[misc]
                environment=own | each.environment(),
            )
            stack.callback(server.kill)
            server.start()
            assert server.pid
            started.append(Intake(port, server.pid, int(filled.stdout), count, each.database))
        yield started[0], started[1]


def fill(settings: Settings, count: int) -> int:
    """Create the tables, a user, an image, and published tickets of the image, and return the image's id.

    The first ticket is accepted as any other; the rest are copies of it.
    """
    store = Store.open(settings)
    store.migrate()
    store.users.add(LOGIN, PASSWORD, administrator=True)
    hashes = Digests(1 << 30, "0" * 32, "0" * 64, "0" * 128)
    image = store.images.add(
        owner=LOGIN, appliance_id=APPLIANCE, name="bench", format="openstackqcow2", disk_format="qcow2",
        virtual_size=1 << 30, digests=hashes, location="bench.qcow2",
    )  # fmt: skip
    ticket = create_ticket(store, NewTicket(
        owner=LOGIN, appliance_id=APPLIANCE, image_id=image.id, image_size=image.size, platform="openstack",
        account={"login": "admin", "keystoneUrl": "http://keystone.example.com:5000/v3"}, sealed_secrets=b"0" * 140,
        target={"displayName": "bench", "keystoneProject": "images"}, name="bench",
    ))  # fmt: skip
    with reading(store.engine) as connection:
        row = dict(connection.execute(select(tickets).where(tickets.c.id == ticket.id)).one()._mapping)
    row |= {"state": State.PUBLISHED, "phase": Phase.FINISHING, "sent": image.size, "finished": row["created"]}
    for first in range(2, count + 1, ROWS_AT_ONCE):
        ids = range(first, min(first + ROWS_AT_ONCE, count + 1))
        with writing(store.engine, durable=False) as connection:
            connection.execute(insert(tickets), [row | {"id": id, "uid": str(uuid.uuid4())} for id in ids])
    if store.engine.dialect.name == "postgresql":
        # The ids were given, so move the sequence past them. Also do now what autovacuum would do some time later.
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT setval(pg_get_serial_sequence('tickets', 'id'), max(id)) FROM tickets"))
            connection.execute(text("VACUUM ANALYZE tickets"))
    store.close()
    return image.id


@contextmanager
def flower(directory: Path, broker_url: str) -> Iterator[tuple[int, int]]:
    """Run Flower, which sends tasks for signed-in users. Yields its port and its process."""
    port = free_port()
    settings = Settings(data_dir=directory, broker_url=broker_url)
    options = programs.flower_environment(address="127.0.0.1", port=port, login=LOGIN, password=PASSWORD)
    server = Server(
        programs.flower(),
        directory / "flower.log",
        ready=lambda: listens(port),
        environment=programs.inherited()
        | settings.environment()
        | options
        | {"FLOWER_READ_ONLY": "false", "PYTHONPATH": str(REPOSITORY)},
    )
    server.start()
    try:
        assert server.pid
        yield port, server.pid
    finally:
        server.kill()


def send_task(port: int, pid: int, clients: int, seconds: float) -> Report:
    headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json"}
    path = "/api/task/send-task/floor.wake"
    return run(Load(port, "POST", [path], headers, json.dumps({"args": [1]}), clients, seconds), pid, "200")


def floor(database_url: str, broker_url: str, seconds: float) -> Report:
    given = {"database_url": database_url, "broker_url": broker_url, "seconds": seconds}
    return report_of([sys.executable, "-m", "bench.floor"], json.dumps(given), seconds)


# Rounds ---------------------------------------------------------------------------------------------------------------

PUBLISH, FLOWER, FLOOR = "publish", "Flower send-task", "INSERT + apply_async"
TWO = "publish, two processes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16, help="number of concurrent requests (default: %(default)s)")
    parser.add_argument(
        "--tickets", type=int, default=100_000, help="tickets in the large store (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default: %(default)s)")
    parser.add_argument("--before", default=BEFORE, help="revision to compare with; '' for none (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="run two short rounds with 10,000 tickets, as a check")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds, given.tickets, given.before = 2, 0.5, 10_000, ""
    versions = [PRESENT, *([earlier(given.before)] if given.before else [])]
    console = Console(width=140)
    started = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="publisher-bench-")))
        broker_url = stack.enter_context(redis_server()).url
        flowers = stack.enter_context(flower(directory, broker_url))
        postgres = stack.enter_context(postgres_server(durable=True))
        print_machine(console, postgres, given.clients)
        for name in ("SQLite", "PostgreSQL"):
            fresh = postgres.fresh if name == "PostgreSQL" else str
            measure(console, name, directory / name, fresh, broker_url, flowers, versions, given)
    console.print(f"The intake's benchmark took {time.monotonic() - started:.0f} s")


def measure(
    console: Console,
    database: str,
    directory: Path,
    fresh: Callable[[], str],
    broker_url: str,
    flowers: tuple[int, int],
    versions: Sequence[Version],
    given: argparse.Namespace,
) -> None:
    """Measure all ways on one database.

    `fresh` makes a database and returns its URL; empty: SQLite in the data directory.
    """
    directory.mkdir()
    with ExitStack() as stack:
        ways: dict[str, Way] = {}
        large: dict[str, Intake] = {}
        for version in versions:
            for count in (SMALL, given.tickets) if version is PRESENT else (given.tickets,):
                place = directory / f"{version.name}-{count}"
                one, two = stack.enter_context(intake(version, place, fresh(), broker_url, count))
                first, later = one.sign_in()
                two.sign_in()
                plain, conditional = one.polls(given.clients, given.seconds)
                ways |= {poll_name(count, version): plain, poll_name(count, version, known=True): conditional}
            large[version.name] = one
            ways[of(PUBLISH, version)] = partial(one.publish, given.clients, given.seconds)
            if version is PRESENT and database == "PostgreSQL":  # SQLite has one writer at a time
                ways[TWO] = partial(both, one, two, given.clients, given.seconds)
        ways |= {
            FLOWER: lambda: send_task(*flowers, given.clients, given.seconds),
            FLOOR: lambda: floor(large[PRESENT.name].database_url, broker_url, given.seconds),
        }
        for way in ways.values():
            way()  # a first run, not counted
        rounds: dict[str, list[Report]] = {name: [] for name in ways}
        for turn in range(given.rounds):
            # Reverse every second round, so that a slow period affects both neighbours alike. A conditional poll needs
            # the answers of a plain poll, from the same round or the previous one.
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                rounds[name].append(ways[name]())
        print_table(console, database, rounds, versions, given)
    console.print(
        f"{database}: a first poll with a password took {first * 1000:.1f} ms, later ones {later * 1000:.1f} ms:"
        f" the password is hashed once"
    )
    print_flatness(console, database, rounds, given.tickets)


def both(one: Intake, two: Intake, clients: int, seconds: float) -> Report:
    """Publish through two intake processes of one store at the same time, each with half of the clients."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda each: each.publish(clients // 2, seconds), (one, two))
    return Report(
        first.latencies + second.latencies,
        seconds=max(first.seconds, second.seconds),
        cpu=first.cpu + second.cpu,
        server_cpu=first.server_cpu + second.server_cpu,
    )


def of(name: str, version: Version) -> str:
    return name if version is PRESENT else f"{name}, {version.name}"


def poll_name(count: int, version: Version = PRESENT, *, known: bool = False) -> str:
    return of(f"poll of {count:,} tickets" + (", 304" if known else ""), version)


def ratio(each: list[Report], other: list[Report]) -> float:
    """Return the median ratio of the rates, round by round."""
    return statistics.median(one.rate / two.rate for one, two in zip(each, other, strict=True))


def print_table(
    console: Console,
    database: str,
    rounds: dict[str, list[Report]],
    versions: Sequence[Version],
    given: argparse.Namespace,
) -> None:
    title = f"One intake process on {database}, {given.clients} clients, medians of {given.rounds} interleaved rounds"
    headings = (
        "requests",
        "per second",
        "/ before",
        "/ Flower's",
        "/ floor's",
        "p99 ms",
        "p99 / Flower's",
        "CPU ms",
        "client's cores",
    )
    table = Table(*headings, title=title)
    for name, reports in rounds.items():
        compared = name.startswith(PUBLISH) or name in (FLOWER, FLOOR)
        before = of(name, versions[-1]) if len(versions) > 1 else name
        p99 = statistics.median(report.p99 for report in reports)
        slower = statistics.median(a.p99 / b.p99 for a, b in zip(reports, rounds[FLOWER], strict=True))
        table.add_row(
            name,
            f"{statistics.median(report.rate for report in reports):.0f}",
            f"{ratio(reports, rounds[before]):.2f}" if before != name and before in rounds else "",
            f"{ratio(reports, rounds[FLOWER]):.2f}" if compared else "",
            f"{ratio(reports, rounds[FLOOR]):.2f}" if compared else "",
            f"{p99 * 1000:.1f}",
            f"{slower:.2f}" if compared and name != FLOOR else "",
            f"{statistics.median(report.server_cpu_each for report in reports) * 1000:.2f}",
            f"{statistics.median(report.busy for report in reports):.2f}",
        )
    console.print(table)


def print_flatness(console: Console, database: str, rounds: dict[str, list[Report]], count: int) -> None:
    for known in (False, True):
        found = ratio(rounds[poll_name(count, known=known)], rounds[poll_name(SMALL, known=known)])
        console.print(
            f"{database}: polls per second with {count:,} tickets are {found:.2f} of those with {SMALL}"
            f"{', answered 304' if known else ''}: {'flat' if abs(found - 1) <= FLAT else 'NOT FLAT'}"
        )


def print_machine(console: Console, postgres: PostgresServer, clients: int) -> None:
    with psycopg.connect(postgres.url("postgres")) as server:
        postgres_version = server.info.server_version // 10_000
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("uvicorn", "starlette", "sqlalchemy", "celery", "flower")
    )
    console.print(
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()};"
        f" Python {platform.python_version()}, {packages}, SQLite {sqlite3.sqlite_version},"
        f" PostgreSQL {postgres_version} with fsync; load before: {os.getloadavg()[0]:.1f}."
        f" The {clients} clients are a process of their own: it, the intake, the database and Redis share these cores."
    )


if __name__ == "__main__":
    main()
