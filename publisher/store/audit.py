"""The audit log, to read it and to add what changes nothing in the store. Entries are never changed or removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select

from publisher.store.database import Actor, acting, audit, audit_change, reading, writing

UNKNOWN = "(unknown)"
"""Login of an actor who has not proved to be that user."""


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
        with writing(acting(self._engine, actor)) as connection:
            audit_change(connection, action, object, detail=detail)

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
