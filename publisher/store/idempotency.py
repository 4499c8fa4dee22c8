"""Idempotency keys of requests, so that a repeated request creates no second ticket."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict
from publisher.core.ticket import Ticket
from publisher.store.engine import db_now, reading, writing
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


class KeyTaken(Conflict):
    """Another request took the key first."""


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


def claim_key(connection: Connection, key: IdempotencyKey, ticket_id: int) -> None:
    """Store the key, in the transaction that creates the ticket. Raises `KeyTaken`: then roll the transaction back.

    If another transaction is storing the same key, waits until that ends.
    """
    same = idempotency_keys.c.owner == key.owner, idempotency_keys.c.key == key.key
    connection.execute(delete(idempotency_keys).where(*same, idempotency_keys.c.created <= db_now() - key.seconds))
    row = {
        "owner": key.owner,
        "key": key.key,
        "digest": key.fingerprints[0],
        "ticket_id": ticket_id,
        "created": db_now(),
    }
    try:
        connection.execute(insert(idempotency_keys).values(row))
    except IntegrityError:
        raise KeyTaken("Idempotency-Key: another request with this key is being processed; try again") from None
