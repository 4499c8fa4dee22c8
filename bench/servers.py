"""Measure the CPU that HTTP servers need for one request: of a small application, and of the intake's own routes.

Uvicorn with h11 and with httptools, on asyncio and on uvloop; Granian; and the intake's own connections
(`publisher.intake.connection`). The rounds are interleaved, and the output shows medians. All servers run with one
process and without an access log. Only the intake's own connections limit how long a caller may take.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.earlier import REPOSITORY
from bench.intake import AUTHORIZATION, fill
from bench.load import Load, ask
from publisher.cli import programs
from publisher.core.settings import Settings
from publisher.core.ticket import ticket_uri
from tests.servers.process import Server, free_port, listens
from tests.servers.redis import redis_server
from tests.stack import cpu_seconds

TICKETS = 100
_BODY = b"x" * 500
_UVICORN = ("-m", "uvicorn", "--factory", "--ws", "none", "--no-access-log", "--log-level", "warning")
_GRANIAN = ("-m", "granian", "--factory", "--interface", "asgi", "--http", "1", "--no-ws", "--log-level", "warning")
_OURS = "publisher.intake.connection:CallerConnection"
SERVERS = {
    "uvicorn, h11": (*_UVICORN, "--http", "h11", "--loop", "asyncio"),
    "uvicorn, h11, uvloop": (*_UVICORN, "--http", "h11", "--loop", "uvloop"),
    "uvicorn, httptools": (*_UVICORN, "--http", "httptools", "--loop", "asyncio"),
    "uvicorn, httptools, uvloop": (*_UVICORN, "--http", "httptools", "--loop", "uvloop"),
    "uvicorn, our connections": (*_UVICORN, "--http", _OURS, "--loop", "asyncio"),
    "uvicorn, our connections, uvloop": (*_UVICORN, "--http", _OURS, "--loop", "uvloop"),
    "Granian, uvloop": (*_GRANIAN, "--loop", "uvloop"),
}
"""What follows `python` in the command of each server, without the address and the application."""


def small() -> Starlette:
    """Make an application that does nothing: once in the event loop, once in a thread."""

    async def here(request: Request) -> Response:
        return Response(_BODY)

    def elsewhere(request: Request) -> Response:
        return Response(_BODY)

    return Starlette(routes=[Route("/here", here), Route("/elsewhere", elsewhere)])


@dataclass(frozen=True)
class Measured:
    """A kind of request to one application."""

    app: str
    path: str
    status: str = "200"
    conditional: bool = False

    def seconds_each(self, port: int, pid: int, clients: int, seconds: float) -> float:
        """Return the CPU of one answer, in seconds."""
        headers = {"Authorization": AUTHORIZATION, "Accept": "application/xml", "User-Agent": "bench"}
        etags: dict[str, str] = {}
        if self.conditional:
            etags = ask(Load(port, "GET", [self.path], headers, clients=1, seconds=0.1)).etags
        load = Load(port, "GET", [self.path], headers, "", clients, seconds, etags)
        before = cpu_seconds(pid)
        report = ask(load)
        if set(report.statuses) != {self.status}:
            raise SystemExit(f"{self.path}: answers other than {self.status}: {report.statuses}")
        return (cpu_seconds(pid) - before) / len(report.latencies)


@contextmanager
def serving(command: tuple[str, ...], app: str, settings: Settings, log: Path) -> Iterator[tuple[int, int]]:
    """Run a server. Yields its port and the process that answers."""
    port = free_port()
    environment = programs.inherited() | settings.environment() | {"PYTHONPATH": str(REPOSITORY)}
    full = [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port), app]
    server = Server(full, log, ready=lambda: listens(port), environment=environment)
    server.start()
    try:
        assert server.pid
        children = psutil.Process(server.pid).children()
        yield port, (children[-1].pid if command[1] == "granian" else server.pid)
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8, help="number of connections (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default: %(default)s)")
    given = parser.parse_args()
    console = Console(width=120)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="publisher-bench-")))
        broker_url = stack.enter_context(redis_server()).url
        # A password must not be hashed again in the middle.
        settings = Settings(data_dir=directory, broker_url=broker_url, credential_cache_seconds=3600)
        image_id = fill(settings, TICKETS)
        poll = f"/api/{ticket_uri('root', 4, image_id, 1)}/status"
        kinds = {
            "small": Measured("bench.servers:small", "/here"),
            "small, in a thread": Measured("bench.servers:small", "/elsewhere"),
            "/api/status": Measured("publisher.app:create_app", "/api/status"),
            "poll": Measured("publisher.app:create_app", poll),
            "poll, 304": Measured("publisher.app:create_app", poll, "304", conditional=True),
        }
        missing = [name for name in ("httptools", "granian") if find_spec(name) is None]
        servers = {name: each for name, each in SERVERS.items() if not any(part in missing for part in each)}
        running = {
            (name, app): stack.enter_context(serving(command, app, settings, directory / f"{name} {number}.log"))
            for name, command in servers.items()
            for number, app in enumerate(dict.fromkeys(each.app for each in kinds.values()))
        }
        taken: dict[tuple[str, str], list[float]] = {(name, kind): [] for name in servers for kind in kinds}
        for turn in range(-1, given.rounds):
            # Reverse every second round, so that a slow period affects all alike. The first round is not counted.
            for name, kind in list(taken)[:: -1 if turn % 2 else 1]:
                each = kinds[kind]
                found = each.seconds_each(*running[name, each.app], given.clients, given.seconds if turn >= 0 else 0.2)
                if turn >= 0:
                    taken[name, kind].append(found)
    table = Table("server", *kinds, title=f"CPU of one request in µs, medians of {given.rounds} interleaved rounds")
    for name in servers:
        table.add_row(name, *(f"{statistics.median(taken[name, kind]) * 1e6:.0f}" for kind in kinds))
    console.print(table)
    if missing:
        console.print(f"Not measured: {', '.join(missing)}. Install them with `pip install {' '.join(missing)}`.")


if __name__ == "__main__":
    main()
