"""Delivery of notifications: a sender claims one, sends it, and retries it or gives up.

Each delivery attempt adds an entry to the ticket's history. `ticket_rows` creates the notifications. They are deleted
with their ticket.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Integer, Row, Select, bindparam, func, select, update

from publisher.core.ticket import Phase, State
from publisher.store.database import db_now, notifications, reading, tickets, writing
from publisher.store.ticket_rows import append_history

_RECEIVERS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification. `state` is `waiting`, `sent` or `failed`. The URL may contain a secret in its path or query."""

    id: int
    uid: str
    """The same for each delivery attempt, so that receivers can recognise a repeated one."""
    ticket_id: int
    owner: str
    url: str = field(repr=False)
    event: str
    body: str = field(repr=False)
    state: str
    attempt: int
    created: float
    next_at: float
    """When it is due, if it waits."""
    error: str | None


_COLUMNS = [notifications.c[name] for name in Notification.__dataclass_fields__]
_WAITS = notifications.c.state == "waiting"


def _select_receivers() -> Select[Any]:
    due = (
        select(notifications.c.owner, notifications.c.url, func.min(notifications.c.next_at).label("since"))
        .where(_WAITS, notifications.c.next_at <= db_now())
        .where(notifications.c.owner.not_in(bindparam("but_of", expanding=True)))
        .group_by(notifications.c.owner, notifications.c.url)
        .subquery()
    )
    turn = func.row_number().over(partition_by=due.c.owner, order_by=(due.c.since, due.c.url)).label("turn")
    ranked = select(due, turn).subquery()
    return (
        select(ranked.c.owner, ranked.c.url)
        .where(ranked.c.turn <= bindparam("of_each", type_=Integer()))
        .order_by(ranked.c.turn, ranked.c.since)
        .limit(_RECEIVERS_AT_ONCE)
    )


_RECEIVERS = _select_receivers()
"""Built once: a worker executes it every few seconds, and building it costs more."""


class Notifications:
    """Notifications and their delivery."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def receivers(self, *, of_each: int, but_of: Collection[str] = ()) -> Sequence[tuple[str, str]]:
        """Return the receivers that are due, as owner and URL, except those of the owners `but_of`.

        For each owner at most `of_each`, the longest waiting first. Owners take turns: the first receiver of every
        owner comes before the second of any.
        """
        values = {"of_each": of_each, "but_of": list(but_of)}
        with reading(self._engine) as connection:
            return [(owner, url) for owner, url in connection.execute(_RECEIVERS, values)]

    def claim(self, owner: str, url: str, lease_seconds: float) -> Notification | None:
        """Claim the receiver's oldest due notification and count the attempt; None if there is none.

        Nobody else gets it for `lease_seconds`. If no result is recorded by then, as its sender died, it is due again.
        """
        oldest = (
            select(notifications.c.id)
            .where(_WAITS, notifications.c.next_at <= db_now())
            .where(notifications.c.owner == owner, notifications.c.url == url)
            .order_by(notifications.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with writing(self._engine, durable=False) as connection:
            id = connection.execute(oldest).scalar()
            if id is None:
                return None
            claimed = (
                update(notifications)
                .where(notifications.c.id == id)
                .values(attempt=notifications.c.attempt + 1, next_at=db_now() + lease_seconds)
                .returning(*_COLUMNS)
            )
            return _notification(connection.execute(claimed).one())

    def sent(self, notification: Notification, words: str) -> None:
        self._record(notification, words, state="sent", error=None)

    def again(self, notification: Notification, words: str, *, delay_seconds: float, error: str) -> None:
        self._record(notification, words, next_at=db_now() + delay_seconds, error=error)

    def given_up(self, notification: Notification, words: str, *, error: str) -> None:
        self._record(notification, words, state="failed", error=error)

    def list(self, ticket_id: int) -> Sequence[Notification]:
        """Return the notifications of a ticket, oldest first."""
        query = select(*_COLUMNS).where(notifications.c.ticket_id == ticket_id).order_by(notifications.c.id)
        with reading(self._engine) as connection:
            return [_notification(row) for row in connection.execute(query)]

    def _record(self, notification: Notification, words: str, **values: Any) -> None:
        """Record the result of an attempt. Does nothing if another attempt has started or the ticket was deleted."""
        mine = notifications.c.id == notification.id, _WAITS, notifications.c.attempt == notification.attempt
        # Lock the ticket first, in the same order as a deletion does.
        ticket = select(tickets.c.state, tickets.c.phase).where(tickets.c.id == notification.ticket_id)
        with writing(self._engine, durable=False) as connection:
            row = connection.execute(ticket.with_for_update(read=True, key_share=True)).one_or_none()
            if row and connection.execute(update(notifications).where(*mine).values(values)).rowcount == 1:
                state = State(row.state)
                append_history(connection, notification.ticket_id, state, state, Phase(row.phase), words)


def _notification(row: Row[Any]) -> Notification:
    return Notification(**row._mapping)
