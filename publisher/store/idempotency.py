"""Idempotency keys of requests, so that a repeated request creates no second ticket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, delete, select

from publisher.core.errors import Conflict
from publisher.core.ticket import Ticket
from publisher.store.engine import db_now, reading, upsert, writing
from publisher.store.tables import idempotency_keys, tickets
from publisher.store.ticket_rows import TICKET_COLUMNS, ticket_of


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key, and the request that it came with."""

    owner: str
    """Login of the caller. Each caller has its own keys."""
    key: str
    fingerprints: tuple[str, ...] = field(repr=False)
    """Fingerprints of the request, by each of the vault's keys; store the first."""
    seconds: float
    """How long the key is valid."""

    @property
    def name(self) -> tuple[str, str]:
        return self.owner, self.key


class KeyTaken(Conflict):
    """Idempotency-Key: another request with this key is being processed; try again"""


class IdempotencyKeys:
    """Idempotency keys and their tickets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ticket(self, key: IdempotencyKey) -> Ticket | None:
        """Return the ticket of the first request with this key; None if there was none.

        Raises `Conflict` if that was a different request.
        """
        query = (
            select(*[*TICKET_COLUMNS, idempotency_keys.c.digest])
            .join(idempotency_keys, idempotency_keys.c.ticket_id == tickets.c.id)
            .where(idempotency_keys.c.owner == key.owner, idempotency_keys.c.key == key.key)
            .where(idempotency_keys.c.created > db_now() - key.seconds)
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.digest not in key.fingerprints:
            raise Conflict("Idempotency-Key: was used for another request; a new request needs a new key")
        return ticket_of(row)

    def purge(self, seconds: float) -> int:
        """Delete the keys that are older than `seconds`. Return how many."""
        expired = idempotency_keys.c.created <= db_now() - seconds
        with writing(self._engine, durable=False) as connection:
            return connection.execute(delete(idempotency_keys).where(expired)).rowcount


def taken_keys(connection: Connection, keys: Sequence[IdempotencyKey], now: float) -> set[tuple[str, str]]:
    """Return the names of those keys that have a ticket. Deletes those that have expired."""
    if not keys:
        return set()
    query = select(idempotency_keys.c.owner, idempotency_keys.c.key, idempotency_keys.c.created).where(
        idempotency_keys.c.owner.in_({each.owner for each in keys}),
        idempotency_keys.c.key.in_({each.key for each in keys}),
    )
    created = {(row.owner, row.key): row.created for row in connection.execute(query)}
    known = [each for each in keys if each.name in created]
    expired = {each.name: each for each in known if created[each.name] <= now - each.seconds}
    for _, each in sorted(expired.items()):
        same = idempotency_keys.c.owner == each.owner, idempotency_keys.c.key == each.key
        connection.execute(delete(idempotency_keys).where(*same, idempotency_keys.c.created <= now - each.seconds))
    return {each.name for each in known} - set(expired)


def claim_keys(connection: Connection, keys: Mapping[int, IdempotencyKey], now: float) -> set[int]:
    """Store the keys of these tickets, in the transaction that creates the tickets. Return the tickets that got theirs.

    If another transaction is storing the same key, waits until that ends.
    """
    rows = [
        {"owner": key.owner, "key": key.key, "digest": key.fingerprints[0], "ticket_id": ticket_id, "created": now}
        # In one order, so that two transactions cannot deadlock.
        for ticket_id, key in sorted(keys.items(), key=lambda each: each[1].name)
    ]
    if not rows:
        return set()
    insert = upsert(connection, idempotency_keys).on_conflict_do_nothing().returning(idempotency_keys.c.ticket_id)
    return set(connection.execute(insert, rows).scalars())
