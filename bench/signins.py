"""Measure how soon known callers get answers while others try wrong passwords, all at once and from many addresses.

    python -m bench.signins [--callers 60] [--seconds 60] [--addresses 20]

The intake and the callers that guess run in processes of their own; this process measures. On Linux, loopback has as
many addresses as needed (127.0.0.x). The exit code is 1 if a p99 exceeds its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import update

from bench.longpoll import LOGIN, Intake, add_tickets, intake, request_of, warm_up
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from publisher.store.database import db_now, writing
from publisher.store.database import tickets as tickets_table

TARGET_SECONDS = 0.25
_PAUSE_SECONDS = 0.02
_ANSWER_SECONDS = 60


@dataclass
class Measured:
    """Seconds until each answer, and the statuses of all answers."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[max(0, round(len(self.seconds) * 0.99) - 1)]


@dataclass
class Result:
    polls: Measured = field(default_factory=Measured)
    health: Measured = field(default_factory=Measured)
    long_polls: Measured = field(default_factory=Measured)
    """Seconds from the change of the ticket to the answer."""
    guesses: dict[int, int] = field(default_factory=dict)
    """Number of answers to wrong passwords, by status."""


class Caller:
    """Sends a request and reads the answer, again and again. Opens a new connection when the server closes one."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._port = port
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._address, 0))
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _ANSWER_SECONDS)
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            return await self.ask(request)
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def guess(port: int, callers: int, seconds: float, addresses: int) -> Counter[int]:
    """Run `callers` callers, each of which sends wrong passwords as fast as they are answered.

    Returns counts by status.
    """
    answers: Counter[int] = Counter()
    until = time.monotonic() + seconds

    async def caller(number: int) -> None:
        asking = Caller(port, f"127.0.0.{2 + number % addresses}")
        tried = 0
        while time.monotonic() < until:
            tried += 1
            sent = base64.b64encode(f"guest-{number}-{tried}:wrong".encode()).decode()
            head = f"GET /api/users/{LOGIN} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {sent}\r\n\r\n"
            answers[await asking.ask(head.encode())] += 1
        asking.close()

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return answers


async def measure(running: Intake, tickets: list[Ticket], ended: Callable[[], bool]) -> Result:
    """Measure polls, health checks and long polls until the callers that guess have ended."""
    result = Result()
    poll = request_of(tickets[0], 0).replace(b"?wait=0", b"")
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    async def repeat(request: bytes, measured: Measured) -> None:
        asking = Caller(running.port)
        while not ended():
            began = time.perf_counter()
            measured.statuses[await asking.ask(request)] += 1
            measured.seconds.append(time.perf_counter() - began)
            await asyncio.sleep(_PAUSE_SECONDS)
        asking.close()

    async def wait_for_changes() -> None:
        asking = Caller(running.port)
        for ticket in tickets[1:]:
            if ended():
                break
            answer = asyncio.create_task(asking.ask(request_of(ticket, 30)))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(_change, running.store, ticket)
            began = time.perf_counter()
            result.long_polls.statuses[await answer] += 1
            result.long_polls.seconds.append(time.perf_counter() - began)
        asking.close()

    await asyncio.gather(repeat(poll, result.polls), repeat(health, result.health), wait_for_changes())
    return result


def _change(store: Store, ticket: Ticket) -> None:
    with writing(store.engine) as connection:
        row = tickets_table.c.id == ticket.id
        connection.execute(update(tickets_table).where(row).values(state=State.CANCELLED, modified=db_now()))


def run(directory: Path, *, callers: int, seconds: float, addresses: int) -> Result:
    with intake(directory) as running:
        tickets = add_tickets(running.store, 2 + int(2 * seconds))
        warm_up(running)
        options = [
            f"--guess={running.port}",
            f"--callers={callers}",
            f"--seconds={seconds}",
            f"--addresses={addresses}",
        ]
        with subprocess.Popen([sys.executable, "-m", "bench.signins", *options], stdout=subprocess.PIPE) as guessing:
            result = asyncio.run(measure(running, tickets, lambda: guessing.poll() is not None))
            assert guessing.stdout is not None
            result.guesses = {int(status): count for status, count in json.loads(guessing.stdout.read()).items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=60, help="number of callers that guess (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they guess (default: %(default)s)")
    parser.add_argument(
        "--addresses", type=int, default=20, help="number of addresses that they call from (default: %(default)s)"
    )
    parser.add_argument("--guess", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.guess:
        answers = asyncio.run(guess(given.guess, given.callers, given.seconds, given.addresses))
        print(json.dumps(answers))
        return
    with tempfile.TemporaryDirectory() as directory:
        result = run(Path(directory), callers=given.callers, seconds=given.seconds, addresses=given.addresses)
    print(f"{given.callers} callers from {given.addresses} addresses, wrong passwords for {given.seconds:g} s:")
    print("  answers to them: " + ", ".join(f"{count} x {status}" for status, count in sorted(result.guesses.items())))
    slow = False
    for name in ("polls", "health", "long_polls"):
        measured: Measured = getattr(result, name)
        slow = slow or measured.p99 > TARGET_SECONDS
        print(f"  {name}: {len(measured.seconds)} answers {dict(measured.statuses)}, p99 {measured.p99 * 1000:.0f} ms")
    sys.exit(f"p99 above {TARGET_SECONDS * 1000:.0f} ms" if slow else 0)


if __name__ == "__main__":
    main()
