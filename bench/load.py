"""The clients of the intake's benchmark, in a process of their own.

They send requests over open connections as fast as they get answers. Plain sockets, because every instruction here is
taken from the server, with which they share the cores.

Reads a `Load` as JSON from standard input, and writes a `Report` as JSON.
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from tests.stack import cpu_seconds

_RECEIVED_BYTES = 1 << 16


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


class Connection:
    """One connection: a request, its answer, the next request."""

    def __init__(self, load: Load, report: Report) -> None:
        self._load = load
        self._report = report
        lines = "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        body = load.body.encode()
        self._head = f" HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Content-Length: {len(body)}\r\n"
        self._body = b"\r\n" + body
        self._received = b""
        self.socket = socket.create_connection(("127.0.0.1", load.port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Send a request."""
        self._path = random.choice(self._load.paths)  # noqa: S311  # no secret
        tag = self._load.etags.get(self._path)
        known = f"If-None-Match: {tag}\r\n" if tag else ""
        request = f"{self._load.method} {self._path}{self._head}{known}".encode() + self._body
        self._asked = time.perf_counter()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Read what has arrived, and note the answer if it is complete. Raises `ConnectionError` without one."""
        data = self.socket.recv(_RECEIVED_BYTES)
        if not data:
            raise ConnectionError("the server hung up")
        self._received = received = self._received + data if self._received else data
        ends = received.find(b"\r\n\r\n")
        if ends < 0:
            return False
        fields = received[: ends + 2].lower()
        missing = ends + 4 + int(_value(fields, fields, b"content-length") or 0) - len(received)
        if missing > 0:
            return False
        if missing < 0:
            raise ConnectionError("the server sent more than an answer")
        report = self._report
        report.latencies.append(time.perf_counter() - self._asked)
        status = received[9:12].decode()
        report.statuses[status] = report.statuses.get(status, 0) + 1
        if tag := _value(received, fields, b"etag"):
            report.etags[self._path] = tag.decode()
        self._received = b""
        return True


def _value(head: bytes, fields: bytes, name: bytes) -> bytes:
    """Return the value of a header, or nothing. `fields` is the head in lower case."""
    at = fields.find(b"\r\n%b:" % name)
    return head[at + len(name) + 3 : fields.find(b"\r\n", at + 2)].strip() if at >= 0 else b""


def ask(load: Load) -> Report:
    """Send the requests. Raises `ConnectionError` if a server closes a connection early."""
    report = Report()
    cpu, started = time.process_time(), time.perf_counter()
    until = started + load.seconds
    with ExitStack() as stack, select.epoll() as waiting:
        connections: dict[int, Connection] = {}
        for _ in range(load.clients):
            each = Connection(load, report)
            stack.enter_context(each.socket)
            waiting.register(each.socket, select.EPOLLIN)
            connections[each.socket.fileno()] = each
            each.ask()
        while connections:
            for descriptor, _ in waiting.poll():
                each = connections[descriptor]
                if not each.is_answered():
                    continue
                if time.perf_counter() < until:
                    each.ask()
                else:
                    waiting.unregister(descriptor)
                    del connections[descriptor]
        report.seconds = time.perf_counter() - started
        report.cpu = time.process_time() - cpu
    return report


if __name__ == "__main__":
    json.dump(asdict(ask(Load(**json.load(sys.stdin)))), sys.stdout)
