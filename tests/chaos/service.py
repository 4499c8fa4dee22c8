"""The whole service: a broker, a database, a cloud behind a proxy, two intakes and three workers. A process that ends
is started again, as a supervisor would do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psycopg
import redis as redis_client

from publisher.cli import programs
from publisher.core.settings import Settings
from publisher.devcloud.cloud import DevCloud
from publisher.store import Store
from tests.chaos.cloud_proxy import CloudProxy
from tests.chaos.disk import Disk
from tests.patience import PATIENCE
from tests.servers import missing
from tests.servers.postgres import OwnPostgres, find_postgres
from tests.servers.process import Server, free_port
from tests.servers.rabbitmq import OwnRabbit, find_rabbitmq
from tests.servers.redis import RedisServer, find_redis
from tests.stack import PASSWORD, REPOSITORY, Stack

MIB = 1 << 20
START_SECONDS = 90.0 * PATIENCE
UPLOAD_BYTES_PER_SECOND = 4 * MIB
"""Rate of each connection to Glance without faults: slow enough that faults hit running uploads."""
INTAKES, WORKERS = 2, 3
_QUICK = {
    "attempts_max": 100,  # many, because a run shall not end with tickets that were given up
    # All tickets have the same account: fewer slots than the workers have threads, but enough for the callers.
    "account_uploads_max": 10,
    "retry_longest_seconds": 3.0,
    "wake_again_seconds": 1.0,
    "call_timeout_seconds": 10.0,
    "stall_seconds": 4.0,
    "verify_seconds": 30.0,
}
Say = Callable[[str], None]


class Part:
    """One process of the service, which is started again whenever it ends."""

    def __init__(self, name: str, command: Sequence[str], log: Path, settings: Settings, say: Say) -> None:
        self.name = name
        self.up = threading.Event()
        """Set while the process runs and is ready."""
        self.ended_by_itself = 0
        self._say = say
        self._log = log
        self._log_begins = 0
        self._pause = 0.0
        self._killed = False
        self._stop = threading.Event()
        environment = os.environ | settings.environment() | {"PYTHONPATH": str(REPOSITORY)}
        self._server = Server(command, log, ready=self._ready, environment=environment, start_seconds=START_SECONDS)
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> None:
        self._keeper.start()

    def await_up(self) -> None:
        """Wait until the process is ready. Raises `RuntimeError` if it does not start: the service is not at fault."""
        if not self.up.wait(START_SECONDS):
            raise RuntimeError(f"{self.name} is not up after {START_SECONDS:.0f} s; see {self._log}")

    def kill(self, pause: float) -> None:
        """Send SIGKILL. The process is started again after `pause` seconds."""
        self._pause, self._killed = pause, True
        self.up.clear()
        self._server.kill()

    def signal(self, number: int) -> None:
        self._server.signal(number)

    @property
    def pid(self) -> int | None:
        return self._server.pid

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end."""
        self._stop.set()
        self._server.signal(signal.SIGCONT)
        self._server.signal(signal.SIGTERM)
        self._server.wait(20 * PATIENCE)
        if self._keeper.is_alive():
            self._keeper.join(START_SECONDS)

    def _keep(self) -> None:
        while not self._stop.is_set():
            self._log_begins = self._log.stat().st_size if self._log.exists() else 0
            self._killed = False
            try:
                self._server.start()
                if not self._killed:
                    self.up.set()
            except RuntimeError:
                self._say(f"{self.name} ended as it started")
            while self._server.pid is not None and not self._stop.wait(0.05):
                pass
            self.up.clear()
            if not (self._killed or self._stop.is_set()):
                self.ended_by_itself += 1
                self._say(f"{self.name} ended by itself; it is started again")
                self._pause = 0.5
            self._stop.wait(self._pause)

    def _ready(self) -> bool:
        with self._log.open("rb") as log:
            log.seek(self._log_begins)
            said = log.read()
        return b" ready." in said or b"Uvicorn running on" in said


class Broker(Protocol):
    """A message broker that faults can hit."""

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def empty(self) -> None:
        """Delete all messages and queues."""


class ChaosRedis:
    """A Redis. It also loses everything whenever it is killed."""

    def __init__(self, server: RedisServer | Server, client: Callable[[], redis_client.Redis]) -> None:
        self._server = server
        self._client = client

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()

    def empty(self) -> None:
        with self._client() as client:
            client.flushall()


class ChaosRabbit:
    def __init__(self, server: OwnRabbit, directory: Path) -> None:
        self._server = server
        self._directory = directory

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()

    def empty(self) -> None:
        self._server.kill()
        shutil.rmtree(self._directory / "mnesia")
        self._server.start()


class Database:
    """The database of the ticket store, with the faults that can hit it."""

    def __init__(self, url: str, disk: Disk, postgres: OwnPostgres | None) -> None:
        self.url = url
        self.disk = disk
        self.postgres = postgres
        """None: SQLite, which has no server to kill."""

    def lock(self, seconds: float, wait: Callable[[float], object]) -> None:
        """Lock the tickets for a while: nobody can write them or, in PostgreSQL, read them."""
        if self.postgres is None:
            connection = sqlite3.connect(
                self.url.removeprefix("sqlite:///"), timeout=30 * PATIENCE, isolation_level=None
            )
            with contextlib.closing(connection):
                connection.execute("BEGIN IMMEDIATE")
                wait(seconds)
                connection.execute("ROLLBACK")
            return
        with psycopg.connect(self.url, connect_timeout=10) as locking:
            locking.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            wait(seconds)
            locking.rollback()

    def start_again(self) -> None:
        """Start PostgreSQL again if it has ended, as it does when it cannot write its log."""
        if self.postgres is not None:
            self.postgres.start_if_ended()


class Service:
    """Use as a context manager. All files are in one directory, and the logs in its `logs`."""

    def __init__(self, directory: Path, cloud: DevCloud, *, store: str, broker: str, say: Say) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self.cloud = cloud
        self._kinds = store, broker
        self._say = say
        self._exits = ExitStack()
        self._parts: list[Part] = []

    def __enter__(self) -> Self:
        # PostgreSQL runs as another user, which must be able to reach its directory.
        self.directory.chmod(0o711)
        self.logs.mkdir()
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _start(self) -> None:
        store_kind, broker_kind = self._kinds
        disk = self._exits.enter_context(Disk(self.directory / "store", mib=64 if store_kind == "sqlite" else 384))
        self.database = self._exits.enter_context(_database(store_kind, disk, self.logs))
        self.proxy = self._exits.enter_context(
            CloudProxy(self.cloud.glance_url, bytes_per_second=UPLOAD_BYTES_PER_SECOND)
        )
        quick: dict[str, Any] = {**_QUICK, "database_url": self.database.url}
        self.settings = Stack.in_directory(self.directory / "data", "", **quick).settings
        self.settings.data_dir.mkdir(mode=0o700)
        self.broker, url = self._exits.enter_context(_broker(broker_kind, self.directory, self.settings))
        self.settings = replace(self.settings, broker_url=url)
        self.store = Store.open(self.settings)
        self._exits.callback(self.store.close)
        self.store.migrate()
        self.store.users.add("root", PASSWORD, administrator=True)

        ports = [free_port() for _ in range(INTAKES)]
        self.doors = [Stack(replace(self.settings, intake_port=port)) for port in ports]
        """The intakes, as callers see them."""
        self.intakes = [
            self._part(f"intake{number}", "-m", "publisher.intake.server", "--port",
                       str(port)) for number, port in enumerate(ports)
        ]  # fmt: skip
        self.workers = [
            self._part(f"worker{number}", "-m", "workers", "--name", f"worker{number}@%h") for number in range(WORKERS)
        ]
        self._parts = [*self.intakes, *self.workers]
        self._exits.callback(self.stop)
        for part in self._parts:
            part.start()
        self.await_up()

    def await_up(self) -> None:
        for part in self._parts:
            part.await_up()

    def stop(self) -> None:
        """Stop the intakes and workers gracefully. Repeatable."""
        stopping = [threading.Thread(target=part.stop) for part in self._parts]
        for each in stopping:
            each.start()
        for each in stopping:
            each.join()

    @property
    def ended_by_themselves(self) -> int:
        return sum(part.ended_by_itself for part in self._parts)

    def _part(self, name: str, *arguments: str) -> Part:
        return Part(name, [sys.executable, *arguments], self.logs / f"{name}.log", self.settings, self._say)


@contextmanager
def _database(kind: str, disk: Disk, logs: Path) -> Iterator[Database]:
    if kind == "sqlite":
        yield Database(f"sqlite:///{disk.directory / 'publisher.db'}", disk, None)
        return
    binaries = find_postgres() or missing("PostgreSQL")
    # As in production, commits survive a crash of the server. No test here makes the machine crash.
    server = OwnPostgres(
        binaries, disk.directory, log=logs / "postgres.log", synchronous_commit="on", full_page_writes="on",
        max_wal_size="64MB", min_wal_size="32MB",
    )  # fmt: skip
    server.start()
    try:
        yield Database(server.fresh(), disk, server)
    finally:
        server.kill()


@contextmanager
def _broker(kind: str, directory: Path, settings: Settings) -> Iterator[tuple[Broker, str]]:
    """Yield the running broker and its URL for the settings, which is empty for the embedded one."""
    home = directory / "broker"
    home.mkdir()
    if kind == "rabbitmq":
        rabbit = OwnRabbit(*(find_rabbitmq() or missing("rabbitmq-server")), home)
        try:
            rabbit.start()
            yield ChaosRabbit(rabbit, home), rabbit.url
        finally:
            rabbit.close()
        return
    if kind == "embedded":
        socket = settings.embedded_redis_socket
        server: Server | RedisServer = Server(
            programs.redis(settings),
            directory / "logs" / "redis.log",
            ready=lambda: programs.redis_answers(socket),
        )
        broker, url = ChaosRedis(server, lambda: redis_client.Redis(unix_socket_path=str(socket), socket_timeout=5)), ""
    else:
        server = RedisServer(find_redis() or missing("redis-server"), home)
        url = server.url
        broker = ChaosRedis(server, lambda: redis_client.Redis.from_url(url, socket_timeout=5))
    server.start()
    try:
        yield broker, url
    finally:
        server.kill()
