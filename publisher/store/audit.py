"""Who did what, and from where. Entries are added and read, never changed or removed.

An entry is written by the transaction that makes the change, so that neither is there without the other. Who acts comes
with the engine that the repositories work on (see `Store.acting`); where nobody does, in a worker, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from publisher.store.engine import db_now, reading, writing
from publisher.store.tables import audit

UNKNOWN = "(unknown)"
"""The actor's login, where whoever it was has not shown to be that user."""
_ACTOR = "publisher_actor"
_SHORT = 64
"""Of what a proxy says of the caller: whatever that is, it must not keep a change from being made."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and by which door: `api`, `console` or `terminal`."""

    login: str
    door: str
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    id: int
    at: float
    actor: Actor
    action: str
    """Such as `ticket.cancel`, `account.create`."""
    object: str
    """The URI of what it was done to, as the API has it, or would have it."""
    detail: str


class Audit:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, actor: Actor, action: str, object: str, detail: str = "") -> None:
        """Write down what has been done. `detail` is for people, and never has a secret in it."""
        with writing(self._engine) as connection:
            _write(connection, [_row(actor, action, object, detail)])

    def latest(
        self, count: int = 100, *, before: int | None = None, actor: str | None = None, object: str | None = None
    ) -> Sequence[AuditEntry]:
        """The newest entries first; those before the entry of that number, of that actor, on that object."""
        query = select(audit).order_by(audit.c.id.desc()).limit(count)
        if before is not None:
            query = query.where(audit.c.id < before)
        if actor is not None:
            query = query.where(audit.c.actor == actor)
        if object is not None:
            query = query.where(audit.c.object == object)
        with reading(self._engine) as connection:
            return [
                AuditEntry(
                    row.id,
                    row.at,
                    Actor(row.actor, row.door, row.address, row.request_id),
                    row.action,
                    row.object,
                    row.detail,
                )
                for row in connection.execute(query)
            ]


def acting(engine: Engine, actor: Actor) -> Engine:
    """The same engine, with its connections; what is changed by way of it is written down as done by the actor."""
    return engine.execution_options(**{_ACTOR: actor})


def audit_change(connection: Connection, action: str, *objects: str, detail: str = "") -> None:
    """Write down what the connection's transaction does, where somebody acts. `detail` never has a secret in it."""
    actor: Actor | None = connection.get_execution_options().get(_ACTOR)
    if actor is not None and objects:
        _write(connection, [_row(actor, action, object, detail) for object in objects])


def _write(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    # One alone goes out as one statement, without the preparations for many.
    connection.execute(insert(audit).values(at=db_now()), rows if len(rows) > 1 else rows[0])


def _row(actor: Actor, action: str, object: str, detail: str) -> dict[str, Any]:
    return {
        "actor": actor.login,
        "action": action,
        "object": object,
        "detail": detail,
        "door": actor.door,
        "address": actor.address and actor.address[:_SHORT],
        "request_id": actor.request_id and actor.request_id[:_SHORT],
    }
