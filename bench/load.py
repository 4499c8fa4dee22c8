"""The clients of the intake's benchmark, in a process of their own.

They send requests over open connections as fast as they get answers.

Reads a `Load` as JSON from standard input, and writes a `Report` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

from tests.stack import cpu_seconds

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ETAG = re.compile(rb"\r\netag: *(\S+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """Requests for `seconds`, from `clients` clients at a time, each for a random path."""

    port: int
    method: str
    paths: list[str]
    headers: dict[str, str]
    body: str = ""
    clients: int = 16
    seconds: float = 1.0
    etags: dict[str, str] = field(default_factory=dict)
    """ETags already known for paths, sent as If-None-Match."""


@dataclass
class Report:
    """The results. Latencies and CPU are in seconds; `etags` are those of the answers, by path.

    `cpu` is that of the clients, `server_cpu` that of the process that answered, if it was watched.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)]

    @property
    def server_cpu_each(self) -> float:
        """Seconds of the server's CPU for one answer."""
        return self.server_cpu / len(self.latencies)

    @property
    def busy(self) -> float:
        """Share of a core that the clients used."""
        return self.cpu / self.seconds


def run(load: Load, pid: int, status: str) -> Report:
    """Send the requests from a process of their own, and watch the process that answers.

    Ends the program if an answer has another status than `status`.
    """
    cpu = cpu_seconds(pid)
    report = report_of([sys.executable, "-m", "bench.load"], json.dumps(asdict(load)), load.seconds)
    report.server_cpu = cpu_seconds(pid) - cpu
    if set(report.statuses) != {status}:
        raise SystemExit(f"{load.method} {load.paths[0]}: answers other than {status}: {report.statuses}")
    return report


def report_of(command: list[str], given: str, seconds: float) -> Report:
    """Run a program that works for `seconds`, and return its report. Raises `CalledProcessError`, `TimeoutExpired`."""
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 60)
    return Report(**json.loads(done.stdout))


class Client(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, load: Load, report: Report, until: float, ended: asyncio.Future[None]) -> None:
        self._load = load
        self._report = report
        self._until = until
        self._ended = ended
        lines = "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        body = load.body.encode()
        self._head = f"Host: 127.0.0.1\r\n{lines}Content-Length: {len(body)}\r\n"
        self._body = b"\r\n" + body
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not blank or len(rest) < (int(length[1]) if length else 0):
            return
        self._received = b""
        now = time.perf_counter()
        self._report.latencies.append(now - self._asked)
        status = head[9:12].decode()
        self._report.statuses[status] = self._report.statuses.get(status, 0) + 1
        if tag := _ETAG.search(head):
            self._report.etags[self._path] = tag[1].decode()
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc or time.perf_counter() < self._until:
            self._ended.set_exception(exc or ConnectionError("the server hung up"))
        else:
            self._ended.set_result(None)

    def _ask(self) -> None:
        self._path = random.choice(self._load.paths)  # noqa: S311  # no secret
        tag = self._load.etags.get(self._path)
        line = f"{self._load.method} {self._path} HTTP/1.1\r\n{self._head}"
        known = f"If-None-Match: {tag}\r\n" if tag else ""
        self._asked = time.perf_counter()
        self._transport.write((line + known).encode() + self._body)


async def ask(load: Load) -> Report:
    """Send the requests. Raises `ConnectionError` if a server closes a connection early."""
    loop = asyncio.get_running_loop()
    report = Report()
    cpu, started = time.process_time(), time.perf_counter()
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(load.clients)]
    for each in ended:
        await loop.create_connection(
            lambda each=each: Client(load, report, started + load.seconds, each),  # type: ignore[misc]
            "127.0.0.1",
            load.port,
        )
    await asyncio.gather(*ended)
    report.seconds = time.perf_counter() - started
    report.cpu = time.process_time() - cpu
    return report


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(ask(Load(**json.load(sys.stdin))))), sys.stdout)
