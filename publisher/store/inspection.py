"""Looking through the tickets, and all that is known of one of them: for operators."""

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
    """Which tickets are wanted; what is None does not matter. `before`: those of a smaller number alone."""

    state: State | None = None
    platform: str | None = None
    owner: str | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class CloudObject:
    """A line of a ticket's journal: what it has, or may have, made in a cloud. See `publisher.core.ticket.CloudRef`."""

    cloud_id: str
    state: str
    created: float
    modified: float


@dataclass(frozen=True, slots=True)
class Pace:
    """How the upload of one attempt went, from its samples. Times are seconds since the epoch, sizes bytes."""

    attempt: int
    samples: int
    first: float
    last: float
    sent_first: int
    sent_last: int

    @property
    def bytes_per_second(self) -> float | None:
        """None where a single sample tells nothing."""
        return (self.sent_last - self.sent_first) / (self.last - self.first) if self.last > self.first else None


@dataclass(frozen=True, slots=True)
class Notice:
    """One telling of a ticket's end, or the attempt at it. The address is left out: it may hold a token."""

    event: str
    state: str
    attempt: int
    created: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Dossier:
    """All that is known of a ticket."""

    ticket: Ticket
    reason: str | None
    """Why it failed, or is to be tried again: one of `publisher.core.errors.Reason`."""
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
        """The newest tickets of those that are wanted, the newest first; all where `count` is None."""
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
        """None where there is no such ticket."""
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
        """What begins so and can be named on a command line, with a word about each: of `tickets` and `images` the
        newest, of `users` the first."""
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
