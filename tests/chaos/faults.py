"""The `Hands` that carry out the faults of a run.

A sleep here lasts as long as a fault, or until the next one is due. No sleep waits for a result.
"""

from __future__ import annotations

import itertools
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from publisher.core.ticket import State
from publisher.store.database import reading, tickets
from tests.chaos.bursts import Burst, Bursts, Kill
from tests.chaos.schedule import KINDS, Fault
from tests.chaos.service import Part, Service

STATUSES = (500, 502, 503, 429)
_LONGER_SECONDS = 5.0
_MIDDLE_SECONDS = 0.15
"""An intake that gets a burst commits its tickets within about this time."""
_THROTTLED_BYTES_PER_SECOND = 256 << 10


@dataclass
class Done:
    """A fault that was carried out."""

    fault: Fault
    began: float
    """Time by the monotonic clock, like `ended`."""
    ended: float
    affected: frozenset[int]
    """The tickets that the fault could affect and that had not ended."""


@dataclass
class Log:
    """Writes lines with the time of day, like the service's logs, and the seconds since the faults began."""

    out: TextIO
    began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, words: str) -> None:
        now = time.time()
        clock = time.strftime("%H:%M:%S", time.localtime(now)) + f",{int(now % 1 * 1000):03d}"
        with self._lock:
            self.out.write(f"{clock} {time.monotonic() - self.began:8.2f} {words}\n")
            self.out.flush()


class Hands:
    """Carry out a schedule, with one thread for each thing that faults hit."""

    def __init__(self, service: Service, faults: Sequence[Fault], log: Log, bursts: Bursts) -> None:
        self.done: list[Done] = []
        self.errors: list[str] = []
        """Errors that are not the service's. They fail the run."""
        self._service = service
        self._faults = faults
        self._log = log
        self._bursts = bursts
        self._moments = itertools.cycle(("a group is committed", "one is committed", "in work", "sending"))
        self._lock = threading.Lock()

    def run(self) -> None:
        """Carry out all faults, and return when everything works as before."""
        began = time.monotonic()
        queues: dict[str, queue.SimpleQueue[Fault | None]] = {}
        for target in KINDS.values():
            queues.setdefault(target, queue.SimpleQueue())
        threads = [threading.Thread(target=self._work, args=(each,), daemon=True) for each in queues.values()]
        for thread in threads:
            thread.start()
        for fault in self._faults:
            time.sleep(max(0.0, began + fault.at - time.monotonic()))
            queues[KINDS[fault.kind]].put(fault)
        for each in queues.values():
            each.put(None)
        for thread in threads:
            thread.join()

    def counts(self) -> Counter[str]:
        return Counter(done.fault.kind for done in self.done)

    def _work(self, faults: queue.SimpleQueue[Fault | None]) -> None:
        while (fault := faults.get()) is not None:
            try:
                self._do(fault)
            except Exception as error:  # after any error the other threads continue, and the run fails
                self.errors.append(f"{fault.kind}: {type(error).__name__}: {error}")
                self._log(f"error {self.errors[-1]}")

    def _do(self, fault: Fault) -> None:
        if fault.kind == "intake_killed_in_burst":
            self._kill_in_burst(fault)
            return
        victim = self._victim(fault)
        affected = self._unfinished(victim.pid if victim and KINDS[fault.kind] == "worker" else None)
        began = time.monotonic()
        self._log(f"begin {fault.kind} {victim.name if victim else ''} {fault.seconds:.2f} s")
        words = ""
        if victim:
            self._hurt(fault, victim)
        else:
            words = getattr(self, f"_{fault.kind}")(fault) or ""
        ended = time.monotonic()
        self._log(f"end   {fault.kind} after {ended - began:.2f} s {words}")
        with self._lock:
            self.done.append(Done(fault, began, ended, affected))

    def _victim(self, fault: Fault) -> Part | None:
        parts = {"worker": self._service.workers, "intake": self._service.intakes}.get(KINDS[fault.kind])
        return parts[fault.which % len(parts)] if parts else None

    def _unfinished(self, worker_pid: int | None) -> frozenset[int]:
        """Return the tickets that have not ended: all, or only those that this worker holds."""
        try:
            tickets = self._service.store.tickets.list()
        except SQLAlchemyError:  # caused by another fault
            return frozenset()
        held = f"-{worker_pid}"
        return frozenset(
            ticket.id
            for ticket in tickets
            if not ticket.final
            and (
                worker_pid is None
                or (ticket.state is not State.QUEUED and ticket.worker is not None and ticket.worker.endswith(held))
            )
        )

    def _kill_in_burst(self, fault: Fault) -> None:
        """Kill the intake that gets the next burst while requests are unanswered. If none is, wait for the next one."""
        while (burst := self._bursts.next()) is not None:
            part = self._service.intakes[burst.door]
            under_way = self._await_middle(burst, fault.which)
            if not under_way:
                self._log(f"no request of burst {burst.number} is under way to {part.name}")
                continue
            began = time.monotonic()
            part.kill(fault.seconds)
            burst.kill = Kill(time.time(), under_way)
            self._log(
                f"begin {fault.kind} {part.name} {fault.seconds:.2f} s, {began - burst.began:.3f} s after burst"
                f" {burst.number} began, {len(under_way)} requests under way"
            )
            affected = self._unfinished(None)
            part.await_up()
            ended = time.monotonic()
            self._log(f"end   {fault.kind} after {ended - began:.2f} s")
            with self._lock:
                self.done.append(Done(fault, began, ended, affected))
            return
        self._log(f"no burst is left for {fault.kind}")

    def _await_middle(self, burst: Burst, which: int) -> frozenset[str]:
        """Wait for the next of four moments of a burst. Return the orders whose requests are under way then."""
        orders = burst.wave.orders
        match next(self._moments):
            case "a group is committed":  # and not answered, or in part
                until = partial(self._has_committed, 2, burst)
                return burst.await_middle(sent=1, seconds=_LONGER_SECONDS, until=until)
            case "one is committed":  # alone, because it came first: the others follow as a group
                until = partial(self._has_committed, 1, burst)
                return burst.await_middle(sent=1, seconds=_LONGER_SECONDS, until=until)
            case "in work":
                seconds = random.Random(which).uniform(0, _MIDDLE_SECONDS)  # noqa: S311
                return burst.await_middle(sent=len(orders), seconds=seconds)
            case _:  # while the requests are being sent
                return burst.await_middle(sent=1 + which % len(orders), seconds=0.0)

    def _has_committed(self, count: int, burst: Burst) -> bool:
        """Return whether the store has so many tickets of the burst."""
        own = select(tickets.c.id).where(tickets.c.name.in_([order.name for order in burst.wave.orders]))
        try:
            with reading(self._service.store.engine) as connection:
                return len(connection.execute(own.limit(count)).all()) == count
        except SQLAlchemyError:  # caused by another fault
            return False

    # The kinds ------------------------------------------------------------------------------------

    def _hurt(self, fault: Fault, part: Part) -> None:
        part.await_up()
        if fault.kind == "worker_paused":
            part.signal(signal.SIGSTOP)
            time.sleep(fault.seconds)
            part.signal(signal.SIGCONT)
        else:
            part.kill(fault.seconds)
            part.await_up()

    def _broker_killed(self, fault: Fault) -> None:
        self._service.broker.kill()
        time.sleep(fault.seconds)
        self._service.broker.start()

    def _broker_emptied(self, fault: Fault) -> None:
        self._service.broker.empty()

    def _database_killed(self, fault: Fault) -> None:
        postgres = self._service.database.postgres
        assert postgres is not None
        postgres.kill()
        time.sleep(fault.seconds)
        postgres.start()

    def _database_locked(self, fault: Fault) -> None:
        self._service.database.lock(fault.seconds, time.sleep)

    def _disk_full(self, fault: Fault) -> str:
        disk = self._service.database.disk
        disk.fill()
        left = disk.left()
        try:
            time.sleep(fault.seconds)
        finally:
            disk.free()
        self._service.database.start_again()
        return f"({left} bytes were left)"

    def _glance_killed(self, fault: Fault) -> None:
        self._service.cloud.kill_glance()
        time.sleep(fault.seconds)
        self._service.cloud.start_glance()

    def _connections_cut(self, fault: Fault) -> None:
        self._await_uploads()
        self._service.proxy.cut()

    def _uploads_stalled(self, fault: Fault) -> None:
        self._service.proxy.stall()
        time.sleep(fault.seconds)
        self._service.proxy.resume()

    def _uploads_throttled(self, fault: Fault) -> None:
        proxy = self._service.proxy
        before, proxy.bytes_per_second = proxy.bytes_per_second, _THROTTLED_BYTES_PER_SECOND
        time.sleep(fault.seconds)
        proxy.bytes_per_second = before

    def _requests_refused(self, fault: Fault) -> str:
        status = STATUSES[fault.which % len(STATUSES)]
        self._service.proxy.refusing = status
        touched = self._until_touched(fault.seconds)
        self._service.proxy.refusing = None
        return f"({touched} requests got {status})"

    def _answers_lost(self, fault: Fault) -> str:
        self._service.proxy.losing = True
        touched = self._until_touched(fault.seconds)
        self._service.proxy.losing = False
        return f"({touched} answers)"

    def _tokens_expired(self, fault: Fault) -> str:
        self._await_uploads()
        return f"({self._service.proxy.expire_tokens()} uploads under way)"

    def _until_touched(self, seconds: float) -> int:
        """Wait, and longer if no request has come. Return the number of requests that the proxy disturbed."""
        proxy = self._service.proxy
        before, began = proxy.touched, time.monotonic()
        time.sleep(seconds)
        while proxy.touched == before and time.monotonic() < began + seconds + _LONGER_SECONDS:
            time.sleep(0.02)
        return proxy.touched - before

    def _await_uploads(self) -> None:
        """Wait a while for an upload, because a fault without any upload tells little."""
        until = time.monotonic() + _LONGER_SECONDS
        while not self._service.proxy.uploads and time.monotonic() < until:
            time.sleep(0.02)
