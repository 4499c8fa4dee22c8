"""Search in tickets and full details of one ticket, for operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, String, cast, func, select

from publisher.core.ticket import HistoryEntry, State, Ticket
from publisher.store.engine import reading
from publisher.store.tables import images, journal, notifications, samples, tickets, users
from publisher.store.ticket_rows import TICKET_COLUMNS, ticket_of
from publisher.store.tickets import Tickets


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter for tickets; None matches any value. `before`: only tickets with a smaller id."""

    state: State | None = None
    platform: str | None = None
    owner: str | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class CloudObject:
    """An entry of a ticket's journal: what it may have created in a cloud. See `publisher.core.ticket.CloudRef`."""

    cloud_id: str
    state: str
    created: float
    modified: float


@dataclass(frozen=True, slots=True)
class Pace:
    """The progress of one attempt's upload, from its samples. Times are seconds since the epoch, sizes bytes."""

    attempt: int
    samples: int
    first: float
    last: float
    sent_first: int
    sent_last: int

    @property
    def bytes_per_second(self) -> float | None:
        """The mean rate; None if there is only one sample."""
        return (self.sent_last - self.sent_first) / (self.last - self.first) if self.last > self.first else None


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification of a ticket's end, delivered or not. Has no URL, which may contain a token."""

    event: str
    state: str
    attempt: int
    created: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Dossier:
    """All details of a ticket."""

    ticket: Ticket
    reason: str | None
    """Why it failed or will be retried: one of `publisher.core.errors.Reason`."""
    request_id: str | None
    traceparent: str | None
    history: Sequence[HistoryEntry]
    cloud_objects: Sequence[CloudObject]
    paces: Sequence[Pace]
    notices: Sequence[Notice]


class Inspection:
    def __init__(self, engine: Engine, tickets: Tickets) -> None:
        self._engine = engine
        self._tickets = tickets

    def latest(self, selection: Selection, count: int | None) -> Sequence[Ticket]:
        """Return the newest tickets that match, newest first; all of them if `count` is None."""
        query = select(*TICKET_COLUMNS).order_by(tickets.c.id.desc()).limit(count)
        for column, wanted in (
            (tickets.c.state, selection.state),
            (tickets.c.platform, selection.platform),
            (tickets.c.owner, selection.owner),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if selection.before is not None:
            query = query.where(tickets.c.id < selection.before)
        with reading(self._engine) as connection:
            return [ticket_of(row) for row in connection.execute(query)]

    def dossier(self, id: int) -> Dossier | None:
        """Return all details of a ticket; None if there is no such ticket."""
        ticket = self._tickets.get(id)
        query = select(tickets.c.reason, tickets.c.request_id, tickets.c.traceparent).where(tickets.c.id == id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
            if ticket is None or row is None:
                return None
            return Dossier(
                ticket,
                row.reason,
                row.request_id,
                row.traceparent,
                self._tickets.history(id),
                _cloud_objects(connection, id),
                _paces(connection, id),
                _notices(connection, id),
            )

    def names(self, kind: str, beginning: str, count: int) -> Sequence[tuple[str, str]]:
        """Return completions for the command line, each with a description: names or ids that begin with `beginning`.

        For `tickets` and `images` the newest ones, for `users` the first by login.
        """
        name, about, order = {
            "tickets": (cast(tickets.c.id, String), tickets.c.name, tickets.c.id.desc()),
            "images": (cast(images.c.id, String), images.c.name, images.c.id.desc()),
            "users": (users.c.login, users.c.login, users.c.login),
        }[kind]
        query = select(name, about).where(name.startswith(beginning, autoescape=True)).order_by(order).limit(count)
        with reading(self._engine) as connection:
            return [(str(row[0]), str(row[1])) for row in connection.execute(query)]


def _cloud_objects(connection: Connection, id: int) -> Sequence[CloudObject]:
    query = select(journal).where(journal.c.ticket_id == id).order_by(journal.c.created)
    return [CloudObject(row.cloud_id, row.state, row.created, row.modified) for row in connection.execute(query)]


def _paces(connection: Connection, id: int) -> Sequence[Pace]:
    columns = (
        *(func.count(), func.min(samples.c.at), func.max(samples.c.at)),
        *(func.min(samples.c.sent), func.max(samples.c.sent)),
    )
    query = (
        select(samples.c.attempt, *columns)
        .where(samples.c.ticket_id == id)
        .group_by(samples.c.attempt)
        .order_by(samples.c.attempt)
    )
    return [Pace(*row) for row in connection.execute(query)]


def _notices(connection: Connection, id: int) -> Sequence[Notice]:
    query = select(notifications).where(notifications.c.ticket_id == id).order_by(notifications.c.id)
    return [Notice(row.event, row.state, row.attempt, row.created, row.error) for row in connection.execute(query)]
