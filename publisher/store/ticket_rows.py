"""Reads a ticket from its row, and has the only function that changes a ticket's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, case, insert, update

from publisher.core.ticket import FINAL, TRANSITIONS, Phase, Progress, State, Ticket
from publisher.store.engine import db_now
from publisher.store.outbox import enqueue_webhooks
from publisher.store.tables import history, tickets

_WAKE_AGAIN_LONGEST_SECONDS = 300.0

_PLAIN = [
    "id", "uid", "owner", "appliance_id", "image_id", "platform", "account", "sealed_secrets", "target", "name",
    "attempt", "cloud_id", "location", "error", "error_detail", "created", "modified", "started", "finished",
    "not_before", "lease_token", "worker", "account_id", "downloads", "progressed", "accepted",
    "reason", "request_id", "traceparent", "failure",
]  # fmt: skip

TICKET_COLUMNS = [tickets.c[name] for name in (*_PLAIN, "state", "phase", "sent", "total")]


VERSION_COLUMNS = [tickets.c[name] for name in ("modified", "progressed", "state", "phase", "sent")]

Version = tuple[float, float | None, str, str, int]
"""A value that changes whenever anything in a ticket changes that callers see."""


def version_of(ticket: Ticket) -> Version:
    """Return the same values as `VERSION_COLUMNS` of the ticket's row."""
    return ticket.modified, ticket.progressed, ticket.state, ticket.phase, ticket.progress.sent


def ticket_of(row: Row[Any], left_out: Mapping[str, Any] | None = None) -> Ticket:
    """Build a ticket from a row. `left_out` has values for columns that were not read."""
    values: Mapping[Any, Any] = {**row._mapping, **left_out} if left_out else row._mapping
    return Ticket(
        **{name: values[name] for name in _PLAIN},
        state=State(values["state"]),
        phase=Phase(values["phase"]),
        progress=Progress(values["sent"], values["total"]),
    )


def wake_delay(table: Table, first_seconds: float) -> ColumnElement[float]:
    """Return how long until a row of the table is woken again. Grows each time, so that a long queue does not fill with
    copies of its messages."""
    growing = first_seconds * (1 + table.c.wakes * table.c.wakes)
    return case((growing > _WAKE_AGAIN_LONGEST_SECONDS, _WAKE_AGAIN_LONGEST_SECONDS), else_=growing)


def transition(
    connection: Connection,
    ticket_id: int,
    from_state: State,
    to_state: State,
    *guards: ColumnElement[bool],
    words: str,
    **values: Any,
) -> bool:
    """Change a ticket's state by a guarded UPDATE. Return False, and write nothing, if a guard does not hold.

    Also writes the entry of its history and, for a final state, the notifications. Raises `ValueError` for a transition
    that is not in the table, which is a programming error.
    """
    if (from_state, to_state) not in TRANSITIONS:
        raise ValueError(f"no transition from {from_state} to {to_state}")
    statement = (
        update(tickets)
        .where(tickets.c.id == ticket_id, tickets.c.state == from_state, *guards)
        .values(state=to_state, modified=db_now(), **values)
        .returning(tickets.c.phase)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return False
    append_history(connection, ticket_id, from_state, to_state, row.phase, words)
    if to_state in FINAL:
        enqueue_webhooks(connection, ticket_id)
    return True


def append_history(
    connection: Connection,
    ticket_id: int,
    from_state: State | None,
    to_state: State,
    phase: Phase,
    words: str,
) -> None:
    """Write one entry of a ticket's history."""
    connection.execute(
        insert(history).values(
            ticket_id=ticket_id,
            at=db_now(),
            from_state=from_state,
            to_state=to_state,
            phase=phase,
            words=words,
        )
    )
