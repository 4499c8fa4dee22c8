"""The service as in production: an intake and workers in separate processes, with a real broker and store."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from sqlalchemy.exc import OperationalError

from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.services import image_files
from publisher.store import Store
from publisher.store.database import writing
from tests.patience import PATIENCE
from tests.servers.process import free_port

PASSWORD = "a-password-of-tests"
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Worker:
    """A Celery worker in its own process."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ready(self) -> bool:
        return b" ready." in self.log.read_bytes()

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    @property
    def stopped(self) -> bool:
        """Whether all of its threads are stopped."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)

    def connections_to(self, url: str) -> list[int]:
        """Return the local ports of its established connections to a server."""
        server = urlsplit(url).hostname, urlsplit(url).port
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return [each.laddr.port for each in found if each.raddr == server and each.status == psutil.CONN_ESTABLISHED]

    def kill(self) -> None:
        """Kill the worker with SIGKILL, like a power failure."""
        self.signal(signal.SIGKILL)
        self.process.wait(10 * PATIENCE)


@dataclass
class Stack:
    """Use as a context. Its settings are quick: a lease of 3 s, a reconciler every 0.3 s."""

    settings: Settings
    workers_wanted: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    workers_code: Path = REPOSITORY
    """Directory with the code that the workers run, such as an earlier state of it."""
    workers_in: Sequence[str] = ()
    """What runs the command of a worker, such as `ip netns exec …`."""
    _intake: subprocess.Popen[bytes] | None = None

    @classmethod
    def in_directory(cls, directory: Path, broker_url: str, *, workers: int = 1, **settings: Any) -> Stack:
        quick: dict[str, Any] = {
            "lease_seconds": 3.0,
            "lease_renew_seconds": 1.0,
            "progress_seconds": 0.1,
            "reconcile_seconds": 0.3,
            "retry_first_seconds": 0.3,
            # As many as a worker has threads.
            "account_uploads_max": 4,
            "intake_port": free_port(),
        }
        return cls(Settings(data_dir=directory, broker_url=broker_url, **(quick | settings)), workers)

    def __enter__(self) -> Self:
        self.store = Store.open(self.settings)
        self.store.migrate()
        if self.store.users.get("root") is None:
            self.store.users.add("root", PASSWORD, administrator=True)
        self.logs = self.settings.data_dir / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._intake = self._start(
                "intake",
                [sys.executable, "-m", "publisher.intake.server", "--port",
                 str(self.settings.intake_port)],
            )  # fmt: skip
            for _ in range(self.workers_wanted):
                self.add_worker(wait=False)
            until(lambda: self._answers() and all(worker.ready for worker in self.workers), 60, self._explain)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        processes = [worker.process for worker in self.workers] + ([self._intake] if self._intake else [])
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                process.terminate()
                # After a second SIGTERM a worker does not wait for its uploads.
                process.terminate()
        for process in processes:
            try:
                process.wait(15 * PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5 * PATIENCE)
        self.store.close()

    def add_worker(self, *, wait: bool = True, app: str = "workers.app") -> Worker:
        """Start a worker. `app` is the module of its Celery app."""
        name = f"worker{len(self.workers)}"
        command = [*self.workers_in, sys.executable, "-m", "workers", "--app", app, "--name", f"{name}@%h"]
        process = self._start(name, command)
        worker = Worker(process, self.logs / f"{name}.log")
        self.workers.append(worker)
        if wait:
            until(lambda: worker.ready, 60, self._explain)
        return worker

    def pause(self, worker: Worker) -> None:
        """Stop a worker with SIGSTOP at a moment when it does not hold SQLite's write lock.

        Each trial is far shorter than any lease, so that a failed trial does not cost the worker its lease.
        """

        def stopped_without_the_lock() -> bool:
            worker.signal(signal.SIGSTOP)
            until(lambda: worker.stopped, 10, self._explain)
            try:
                with writing(self.store.engine, wait_seconds=0.2):
                    return True
            except OperationalError:
                worker.signal(signal.SIGCONT)
                return False

        until(stopped_without_the_lock, 60, self._explain)

    # Requests -----------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        accept: str = "application/json",
        content_type: str = "application/xml",
        login: str | None = "root",
        password: str = PASSWORD,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.intake_port, timeout=30 * PATIENCE)
        sent = {"Accept": accept, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = content_type
        if login is not None:
            sent["Authorization"] = "Basic " + b64encode(f"{login}:{password}".encode()).decode()
        try:
            connection.request(method, f"/api/{path}", body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def add_image(
        self, file: Path, *, id: int | None = None, appliance_id: int = 4, format: str | None = "raw", **more: Any
    ) -> Image:
        """Register a file. Most tests register random bytes, hence `raw`; with None, the format is detected."""
        return image_files.register(
            self.store,
            self.settings.images,
            file,
            owner="root",
            appliance_id=appliance_id,
            id=id,
            format=format,
            **more,
        )

    def publish(self, body: dict[str, Any], appliance_id: int = 4) -> dict[str, Any]:
        """Send a publish request in JSON and return the ticket."""
        answer = self.call(
            "POST",
            f"users/root/appliances/{appliance_id}/pimages",
            json.dumps(body).encode(),
            content_type="application/json",
        )
        assert answer.status == 201, answer.body
        ticket: dict[str, Any] = answer.json
        return ticket

    def status(self, ticket: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.call("GET", ticket["statusUri"])
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found

    def wait(
        self, ticket: Mapping[str, Any], seconds: float = 60, each: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> dict[str, Any]:
        """Poll, like a caller, until the ticket has ended."""
        last: dict[str, Any] = {}

        def ended() -> bool:
            nonlocal last
            last = self.status(ticket)
            each(last)
            return bool(last["complete"] or last["error"] or last["cancelled"])

        until(ended, seconds, lambda: f"ticket {ticket['dbId']} is still: {last}\n{self._explain()}")
        return last

    # Parts ----------------------------------------------------------------------------------------------------------

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY if name == "intake" else self.workers_code,
                env=os.environ | self.settings.environment() | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            return self.call("GET", "status", login=None).status == 200
        except OSError:
            return False

    def _explain(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.logs.glob("*.log")))


def until(
    true: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: "", every: float = 0.05
) -> None:
    """Wait for a condition of another process. Fails with an explanation after `seconds` times PATIENCE."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {explain()}")
        time.sleep(every)


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
