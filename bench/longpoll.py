"""Measure how soon waiting callers get an answer after their ticket changes, and what their waiting costs.

    python -m bench.longpoll [CALLERS TICKETS [--database URL]] [--access-log]

Without numbers, 5,000 callers wait for one ticket, and then for a ticket each. The intake runs in a process of its own,
as `publisher serve` starts it, but lets callers wait for longer than a minute, so that all of them wait at the same
time on a slow machine, too. This process holds the callers' connections and changes the tickets in the store, as a
worker does. All tickets change at once. Meanwhile one more caller sends one request after another, to find how long the
intake leaves others waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import os
import resource
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import insert, select, update

from publisher.cli import programs
from publisher.core.image import Digests
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket, ticket_uri
from publisher.store import Store
from publisher.store.database import db_now, tickets, writing
from publisher.store.new_tickets import NewTicket
from tests.patience import PATIENCE
from tests.records import create_ticket
from tests.servers.patient_intake import WAIT_SECONDS, WAITING
from tests.servers.process import Server, free_port, listens

LOGIN, PASSWORD = "bench", "pass-w0rd"
IMAGE_SIZE = 1 << 30
CASES = ((5000, 1), (5000, 5000))
"""Numbers of callers and of the tickets that they wait for."""
_CONNECTING_AT_ONCE = 100
_IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Intake:
    port: int
    process: psutil.Process
    store: Store

    @property
    def threads(self) -> int:
        return int(self.process.num_threads())

    @property
    def megabytes(self) -> float:
        return float(self.process.memory_info().rss) / (1 << 20)

    @property
    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


MODULE = "publisher.intake.server"
PATIENT = "tests.servers.patient_intake"


@contextlib.contextmanager
def intake(
    directory: Path, database_url: str = "", access_log: bool = False, *, module: str = MODULE
) -> Iterator[Intake]:
    """Run a real intake over a new store with one user. `module` runs in place of the service's own."""
    settings = Settings(data_dir=directory, intake_port=free_port(), database_url=database_url, access_log=access_log)
    store = Store.open(settings)
    store.migrate()
    store.users.add(LOGIN, PASSWORD)
    server = Server(
        [module if part == MODULE else part for part in programs.intake(settings)],
        directory / "intake.log",
        ready=lambda: listens(settings.intake_port),
        environment=os.environ | settings.environment() | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    server.start()
    try:
        yield Intake(settings.intake_port, psutil.Process(server.pid), store)
    finally:
        server.kill()
        store.close()


def add_tickets(store: Store, count: int) -> list[Ticket]:
    image = store.images.add(
        owner=LOGIN,
        appliance_id=1,
        name="image",
        format="qcow2",
        disk_format="qcow2",
        virtual_size=IMAGE_SIZE,
        digests=Digests(IMAGE_SIZE, "5" * 32, "2" * 64, "f" * 128),
        location="disk.qcow2",
    )
    first = create_ticket(
        store,
        NewTicket(
            owner=LOGIN,
            appliance_id=1,
            image_id=image.id,
            image_size=IMAGE_SIZE,
            platform="openstack",
            account={"login": "demo", "keystoneUrl": "http://127.0.0.1:5000"},
            sealed_secrets=b"-",
            target={"displayName": "an image"},
            name="an image",
        ),
    )
    with writing(store.engine) as connection:
        row = dict(connection.execute(select(tickets)).one()._mapping)
        copies = [row | {"id": first.id + number, "uid": str(uuid.uuid4())} for number in range(1, count)]
        if copies:
            connection.execute(insert(tickets), copies)
    return store.tickets.list(owner=LOGIN)


def change_all(store: Store) -> None:
    """Change all tickets in one transaction, as fast as possible."""
    with writing(store.engine) as connection:
        connection.execute(update(tickets).values(state=State.PUBLISHED, modified=db_now(), finished=db_now()))


@dataclass
class Waiting(asyncio.Protocol):
    """One caller on a raw connection. It records its answer, and when the answer arrived."""

    request: bytes
    all_there: asyncio.Event
    left: list[int]
    answer: bytes = b""
    at: float = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            self.at = time.perf_counter()
            self._done()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.at:
            self._done()

    def _done(self) -> None:
        self.left[0] -= 1
        if not self.left[0]:
            self.all_there.set()


def request_of(ticket: Ticket, wait: float) -> bytes:
    uri = ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)
    return (
        f"GET /api/{uri}/status?wait={wait:g} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n"
        f"Authorization: {authorization()}\r\n\r\n"
    ).encode()


def warm_up(running: Intake) -> None:
    """Let the intake hash the password, which delays the first request that sends it."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("GET", f"/api/users/{LOGIN}", headers={"Authorization": authorization()})
    assert connection.getresponse().status == 200
    connection.close()


def authorization() -> str:
    return "Basic " + base64.b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()


async def held(running: Intake, waited_for: list[Ticket], callers: int, wait: float = 60) -> Callers:
    """Connect `callers` callers that all wait, for these tickets in turn."""
    loop, everyone, left = asyncio.get_running_loop(), asyncio.Event(), [callers]
    waiting = [
        Waiting(request_of(waited_for[number % len(waited_for)], wait), everyone, left) for number in range(callers)
    ]
    for at in range(0, callers, _CONNECTING_AT_ONCE):
        part = waiting[at : at + _CONNECTING_AT_ONCE]
        await asyncio.gather(
            *(loop.create_connection(partial(_itself, each), "127.0.0.1", running.port) for each in part)
        )
    return Callers(waiting, everyone)


def _itself(waiting: Waiting) -> Waiting:
    return waiting


@dataclass
class Callers:
    waiting: list[Waiting]
    all_answered: asyncio.Event

    def close(self) -> None:
        for each in self.waiting:
            each.transport.abort()


def how_many_wait(running: Intake) -> int:
    """Ask the patient intake."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60 * PATIENCE)
    try:
        connection.request("GET", WAITING)
        return int(connection.getresponse().read())
    finally:
        connection.close()


async def all_wait(running: Intake, callers: Callers) -> None:
    """Return as soon as all callers wait, however long they take to arrive."""
    while await asyncio.to_thread(how_many_wait, running) < len(callers.waiting):
        assert not any(each.answer for each in callers.waiting)
        await asyncio.sleep(0.1)


def slowest_answer(running: Intake, end: threading.Event) -> float:
    """Send one request after another until the end. Returns how long the slowest answer took, in seconds."""
    slowest = 0.0
    while not end.is_set():
        began = time.perf_counter()
        how_many_wait(running)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.05)
    return slowest


async def measure(running: Intake, callers: int, count: int) -> None:
    made = add_tickets(running.store, count)
    warm_up(running)
    print(f"{callers} callers, {count} tickets; before: {running.megabytes:.0f} MiB, {running.threads} threads")

    began = time.perf_counter()
    there = await held(running, made, callers, WAIT_SECONDS)
    await all_wait(running, there)
    print(f"all wait after {time.perf_counter() - began:.1f} s")
    await asyncio.sleep(1)
    began_cpu = running.cpu_seconds
    await asyncio.sleep(_IDLE_SECONDS)
    share = (running.cpu_seconds - began_cpu) / _IDLE_SECONDS
    print(f"waiting: {running.megabytes:.0f} MiB, {running.threads} threads, {share:.1%} of a core")

    end = threading.Event()
    other = asyncio.create_task(asyncio.to_thread(slowest_answer, running, end))
    began_cpu = running.cpu_seconds
    change_all(running.store)
    changed = time.perf_counter()
    await asyncio.wait_for(there.all_answered.wait(), 60 * PATIENCE)
    end.set()
    times = sorted(each.at - changed for each in there.waiting)
    right = sum(b"200 OK" in each.answer and b'"complete":true' in each.answer for each in there.waiting)
    print(
        f"answered: {right} rightly; the first after {times[0]:.3f} s, half after {times[len(times) // 2]:.3f} s,"
        f" the last after {times[-1]:.3f} s; {running.cpu_seconds - began_cpu:.2f} s of the intake's CPU;"
        f" another caller waited {await other:.3f} s at most"
    )
    there.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "numbers", type=int, nargs="*", metavar="N", help="number of callers, and of the tickets that they wait for"
    )
    parser.add_argument("--database", default="", help="SQLAlchemy URL of an empty database (default: SQLite)")
    parser.add_argument("--access-log", action="store_true", help="write the access log, which costs the most")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if len(given.numbers) not in (0, 2):
        parser.error("give both numbers, or neither")
    if given.database and not given.numbers:
        parser.error("--database needs the numbers: one database serves one case")
    for callers, count in [given.numbers] if given.numbers else CASES:
        with (
            tempfile.TemporaryDirectory() as directory,
            intake(Path(directory), given.database, given.access_log, module=PATIENT) as running,
        ):
            asyncio.run(measure(running, callers, count))


if __name__ == "__main__":
    main()
