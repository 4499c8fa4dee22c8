"""Who did what, and from where. Entries are added and read, never changed or removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select

from publisher.core.store.engine import db_now, reading, writing
from publisher.core.store.tables import audit


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
    """The URI of what it was done to, as the API has it."""
    detail: str


class Audit:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, actor: Actor, action: str, object: str, detail: str = "") -> None:
        """Write down what has been done. `detail` is for people, and never has a secret in it."""
        row = {
            "at": db_now(),
            "actor": actor.login,
            "action": action,
            "object": object,
            "detail": detail,
            "door": actor.door,
            "address": actor.address,
            "request_id": actor.request_id,
        }
        with writing(self._engine) as connection:
            connection.execute(insert(audit).values(row))

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
