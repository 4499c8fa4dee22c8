"""Images that expire: the service withdraws them at the time that their publish request named, and says so before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from publisher.core.errors import InvalidRequest
from publisher.core.ticket import State, Ticket
from publisher.store.database import db_now, reading, tickets, writing
from publisher.store.ticket_rows import TICKET_COLUMNS, append_history, enqueue_webhooks, ticket_of
from publisher.store.tickets import withdraw

_AGAIN_SECONDS = 86400.0
"""How long after a withdrawal that could not begin, or that the cloud refused, the next one begins."""
_DUE = tickets.c.state == State.PUBLISHED, tickets.c.expiry_due <= db_now()


class Expiries:
    """What the leader does about images that expire. Each step is one transaction, and is taken once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due(self, limit: int = 100) -> Sequence[int]:
        """Return the published tickets whose webhooks must be notified, or whose image must be withdrawn, now."""
        query = select(tickets.c.id).where(*_DUE).order_by(tickets.c.expiry_due).limit(limit)
        with reading(self._engine) as connection:
            return connection.execute(query).scalars().all()

    def advance(self, id: int) -> None:
        """Take the next step for a ticket: notify its webhooks, or begin its withdrawal. Nothing if it is not due."""
        query = select(*[*TICKET_COLUMNS, db_now().label("now")]).where(tickets.c.id == id, *_DUE).with_for_update()
        with writing(self._engine) as connection:
            row = connection.execute(query).one_or_none()
            if row is None or row.expires is None:
                return
            ticket = ticket_of(row)
            if row.now < row.expires:
                _change(connection, ticket, expiry_due=row.expires)
                append_history(connection, id, ticket.state, ticket.state, ticket.phase, "Its expiry was announced")
                enqueue_webhooks(connection, id, "publication.expiring")
            else:
                _withdraw(connection, ticket)


def _withdraw(connection: Connection, ticket: Ticket) -> None:
    again = db_now() + _AGAIN_SECONDS
    try:
        withdraw(connection, ticket, None, words="The image has expired: withdrawal requested")
    except InvalidRequest as error:
        words = f"not withdrawn, although the image has expired: {error}"
        _change(connection, ticket, expiry_due=again, withdrawal=db_now(), error=words)
        append_history(connection, ticket.id, ticket.state, ticket.state, ticket.phase, f"Still published: {words}")
    else:
        # Only used if the cloud refuses the withdrawal.
        _change(connection, ticket, expiry_due=again)


def _change(connection: Connection, ticket: Ticket, **values: Any) -> None:
    connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(modified=db_now(), **values))
