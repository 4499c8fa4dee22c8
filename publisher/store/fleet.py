"""The workers: their heartbeats, and the roles that only one process at a time may have.

Each worker sends a heartbeat every few seconds, and learns from the answer whether it must drain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from urllib.parse import quote

from sqlalchemy import Double, Engine, bindparam, case, delete, or_, select, update
from sqlalchemy.sql.dml import ReturningInsert

from publisher.core.errors import NotFound
from publisher.core.ticket import HELD
from publisher.store.database import audit_change, db_now, elections, reading, tickets, upsert, workers, writing

# Statements that a worker executes every few seconds are built once: building one costs more than executing it.
_TAKE_OVER = (
    update(elections)
    .where(elections.c.office == bindparam("role"))
    .where(or_(elections.c.holder == bindparam("candidate"), elections.c.until < db_now()))
    .values(holder=bindparam("candidate"), until=db_now() + bindparam("seconds", type_=Double()))
)


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, as it describes itself. Tickets use `name`; Celery and Flower use `node`."""

    name: str
    host: str
    pid: int
    node: str
    version: str
    concurrency: int


class WorkerState(StrEnum):
    ALIVE = "alive"
    DRAINING = "draining"
    SILENT = "silent"
    """It has sent no heartbeat for too long: killed, paused, or cut off from the store."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class WorkerStanding:
    """What the store knows of a worker. Times are seconds since the epoch, by the database's clock."""

    member: Member
    started: float
    silent_seconds: float
    """Time since its last heartbeat."""
    drain: bool
    """It takes no new tickets and will exit: it was asked to, here or by a signal."""
    stopped: float | None
    """When it exited, if it reported that."""
    ticket_ids: Sequence[int]
    """The tickets that it works on."""

    def alive(self, within_seconds: float) -> bool:
        return self.stopped is None and self.silent_seconds <= within_seconds

    def state(self, silent_seconds: float) -> WorkerState:
        """Return its state. A worker that was silent for longer than `silent_seconds` counts as dead."""
        if self.stopped is not None:
            return WorkerState.STOPPED
        if not self.alive(silent_seconds):
            return WorkerState.SILENT
        return WorkerState.DRAINING if self.drain else WorkerState.ALIVE


class Fleet:
    """The workers of the installation."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def join(self, member: Member) -> None:
        """Record that a worker has started. Replaces an earlier worker of that name, such as a restarted container."""
        with writing(self._engine, durable=False) as connection:
            connection.execute(delete(workers).where(workers.c.name == member.name))
        self.beat(member)

    def beat(self, member: Member, *, draining: bool = False) -> bool:
        """Record a heartbeat, and whether the worker is `draining` by itself. Return whether it was asked to drain."""
        row = {
            "name": member.name,
            "host": member.host,
            "pid": member.pid,
            "node": member.node,
            "version": member.version,
            "concurrency": member.concurrency,
        }
        with writing(self._engine, durable=False) as connection:
            return bool(connection.execute(self._draining if draining else self._living, row).scalar_one())

    @cached_property
    def _living(self) -> ReturningInsert[tuple[bool]]:
        return self._heartbeat(drain=False)

    @cached_property
    def _draining(self) -> ReturningInsert[tuple[bool]]:
        return self._heartbeat(drain=True)

    def _heartbeat(self, *, drain: bool) -> ReturningInsert[tuple[bool]]:
        insert = upsert(self._engine, workers).values(started=db_now(), seen=db_now(), drain=drain)
        # A worker that was asked to drain stays so.
        changes = {"seen": db_now(), "stopped": None} | ({"drain": True} if drain else {})
        return insert.on_conflict_do_update(index_elements=[workers.c.name], set_=changes).returning(workers.c.drain)

    def stopped(self, name: str) -> None:
        """Record that a worker has exited in order."""
        with writing(self._engine, durable=False) as connection:
            connection.execute(update(workers).where(workers.c.name == name).values(stopped=db_now()))

    def ask_to_drain(self, name: str) -> None:
        """Ask a worker to drain. Can be repeated. Raises `NotFound` if no such worker is running."""
        with writing(self._engine) as connection:
            asked = update(workers).where(workers.c.name == name, workers.c.stopped.is_(None)).values(drain=True)
            if connection.execute(asked).rowcount != 1:
                raise NotFound(f"there is no worker '{name}'")
            # The API has no such URI.
            audit_change(connection, "worker.drain", f"workers/{quote(name, safe='')}")

    def workers(self) -> list[WorkerStanding]:
        """Return the workers that run or did so lately, the one with the latest heartbeat first."""
        silent = case((workers.c.seen > db_now(), 0.0), else_=db_now() - workers.c.seen).label("silent")
        held = select(tickets.c.id, tickets.c.worker).where(
            tickets.c.state.in_(HELD), tickets.c.lease_until >= db_now()
        )
        with reading(self._engine) as connection:
            rows = connection.execute(select(workers, silent).order_by("silent", workers.c.name)).all()
            work: dict[str | None, list[int]] = {}
            for id, worker in connection.execute(held.order_by(tickets.c.id)):
                work.setdefault(worker, []).append(id)
        return [
            WorkerStanding(
                Member(row.name, row.host, row.pid, row.node, row.version, row.concurrency),
                started=row.started,
                silent_seconds=row.silent,
                drain=row.drain,
                stopped=row.stopped,
                ticket_ids=work.get(row.name, []),
            )
            for row in rows
        ]

    def forget(self, silent_seconds: float) -> int:
        """Delete the workers without a heartbeat for `silent_seconds`. Return how many."""
        with writing(self._engine, durable=False) as connection:
            return connection.execute(delete(workers).where(workers.c.seen < db_now() - silent_seconds)).rowcount


class Leadership:
    """Elects one holder for each role. A holder that does not renew in time loses the role."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def acquire(self, role: str, holder: str, seconds: float) -> bool:
        """Acquire or renew the role for `seconds`. False if another process holds it."""
        asked = {"role": role, "candidate": holder, "seconds": seconds}
        with writing(self._engine) as connection:
            acquired = connection.execute(_TAKE_OVER, asked).rowcount == 1
            if not acquired:
                # Nobody may have held the role before. Then there is no row yet.
                vacant = connection.execute(self._vacate, {"office": role, "holder": "", "until": 0.0})
                if vacant.first():
                    acquired = connection.execute(_TAKE_OVER, asked).rowcount == 1
            return acquired

    @cached_property
    def _vacate(self) -> ReturningInsert[tuple[str]]:
        return upsert(self._engine, elections).on_conflict_do_nothing().returning(elections.c.office)

    def resign(self, role: str, holder: str) -> None:
        """Give the role up. Does nothing if another process holds it."""
        leave = update(elections).where(elections.c.office == role, elections.c.holder == holder).values(until=0.0)
        with writing(self._engine, durable=False) as connection:
            connection.execute(leave)
