"""How a ticket is read from its row, and the one way in which its state is changed."""

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
    "reason", "request_id", "traceparent",
]  # fmt: skip

TICKET_COLUMNS = [tickets.c[name] for name in (*_PLAIN, "state", "phase", "sent", "total")]


VERSION_COLUMNS = [tickets.c[name] for name in ("modified", "progressed", "state", "phase", "sent")]

Version = tuple[float, float | None, str, str, int]
"""What is different whenever anything of a ticket is that callers see."""


def version_of(ticket: Ticket) -> Version:
    """The same as `VERSION_COLUMNS` of the ticket's row."""
    return ticket.modified, ticket.progressed, ticket.state, ticket.phase, ticket.progress.sent


def ticket_of(row: Row[Any], left_out: Mapping[str, Any] | None = None) -> Ticket:
    """`left_out` is what stands for columns that were not read."""
    values: Mapping[Any, Any] = {**row._mapping, **left_out} if left_out else row._mapping
    return Ticket(
        **{name: values[name] for name in _PLAIN},
        state=State(values["state"]),
        phase=Phase(values["phase"]),
        progress=Progress(values["sent"], values["total"]),
    )


def wake_delay(table: Table, first_seconds: float) -> ColumnElement[float]:
    """How long until a row of the table is woken again: ever longer, so that a long queue is not filled with copies of
    its messages."""
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
    """One guarded UPDATE and its line of history, and what is to be told of an end; False, and nothing written, where
    the guards did not hold.

    Raises `ValueError` for a transition that is not in the table: a mistake in the program.
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
    """Write one line of a ticket's history."""
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
