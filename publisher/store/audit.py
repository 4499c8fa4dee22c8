"""The audit log. Entries are added and read, never changed or removed.

The transaction that makes a change also writes its entry, so that neither exists without the other. The actor comes
with the engine that the repositories use (see `Store.acting`). Without an actor, as in a worker, no entry is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from publisher.store.engine import db_now, insert_rows, reading, writing
from publisher.store.tables import audit

UNKNOWN = "(unknown)"
"""Login of an actor who has not proved to be that user."""
_ACTOR = "publisher_actor"
_SHORT = 64
"""Maximum length of what a proxy may supply about the caller: an overlong text must not make a change fail."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and through which interface (`door`): `api`, `console` or `terminal`."""

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
    """For example `ticket.cancel` or `account.create`."""
    object: str
    """The URI that the affected object has, or would have, in the API."""
    detail: str


class Audit:
    """The audit log."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, actor: Actor, action: str, object: str, detail: str = "") -> None:
        """Add an entry for something that was done. `detail` is for people and never contains a secret."""
        with writing(self._engine) as connection:
            _write(connection, [_row(actor, action, object, detail)])

    def latest(
        self, count: int = 100, *, before: int | None = None, actor: str | None = None, object: str | None = None
    ) -> Sequence[AuditEntry]:
        """Return entries, newest first: only those with an id below `before`, of this actor, on this object."""
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
    """Return the same engine, with its connections. Changes made through it are recorded as done by the actor."""
    return engine.execution_options(**{_ACTOR: actor})


def actor_of(engine: Engine) -> Actor | None:
    """Return who makes the changes that are made through this engine; None if they are not recorded."""
    return engine.get_execution_options().get(_ACTOR)


def audit_change(connection: Connection, action: str, *objects: str, detail: str = "") -> None:
    """Record what the connection's transaction changes, if there is an actor. `detail` never contains a secret."""
    actor: Actor | None = connection.get_execution_options().get(_ACTOR)
    if actor is not None and objects:
        _write(connection, [_row(actor, action, object, detail) for object in objects])


def audit_changes(
    connection: Connection, action: str, at: float, changes: Iterable[tuple[Actor | None, str, str]]
) -> None:
    """Record changes of several actors: who changes which object, and details. Leave out changes without an actor."""
    rows = [_row(actor, action, object, detail) | {"at": at} for actor, object, detail in changes if actor is not None]
    if rows:
        insert_rows(connection, audit, rows)


_ADD = insert(audit).values(at=db_now())


def _write(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    # A single row goes out as one plain statement, without the preparations for many.
    connection.execute(_ADD, rows if len(rows) > 1 else rows[0])


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
