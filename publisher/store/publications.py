"""Lists of tickets for people: newest first, page by page, as fast with a hundred thousand tickets as with ten."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, func, or_, select

from publisher.core.image import Image
from publisher.core.ticket import FINAL, State, Ticket
from publisher.core.uris import parse_id
from publisher.store.engine import reading
from publisher.store.tables import notifications, samples, tickets
from publisher.store.ticket_rows import TICKET_COLUMNS, ticket_of

COUNTED_MAX = 1000
"""Counting stops above this number, because it would take ever longer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter for tickets. None, or empty text, matches any."""

    owner: str | None = None
    state: State | None = None
    platform: str = ""
    words: str = ""
    """A part of the name, in upper or lower case, or the ticket's id."""


@dataclass(frozen=True, slots=True)
class PublicationPage:
    """A page of tickets, newest first. Their accounts and targets are left out."""

    tickets: Sequence[Ticket]
    newer: bool
    """Whether there are newer tickets, beyond this page."""
    older: bool


@dataclass(frozen=True, slots=True)
class NotificationStanding:
    """A notification of a ticket's end and its state. Times are seconds since the epoch."""

    event: str
    url: str
    state: str
    attempt: int
    created: float
    next_at: float
    error: str | None


_LEFT_OUT: dict[str, Any] = {
    "account": {},
    "sealed_secrets": None,
    "target": {},
    "error_detail": None,
    "location": None,
}
_COLUMNS = [each for each in TICKET_COLUMNS if each.name not in _LEFT_OUT]


class Publications:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self, wanted: Wanted, count: int, *, before: int | None = None, after: int | None = None
    ) -> PublicationPage:
        """Return the newest tickets; or the next ones older than the ticket `before`, or newer than `after`."""
        query = page_query(wanted, count, before=before, after=after)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        more = len(rows) > count
        found = [ticket_of(row, _LEFT_OUT) for row in rows[:count]]
        if after is not None:
            return PublicationPage(found[::-1], newer=more, older=True)
        return PublicationPage(found, newer=before is not None, older=more)

    def these(self, ids: Collection[int]) -> Sequence[Ticket]:
        """Return those of these tickets that exist, newest first as in a page."""
        query = select(*_COLUMNS).where(tickets.c.id.in_(ids)).order_by(tickets.c.id.desc())
        with reading(self._engine) as connection:
            return [ticket_of(row, _LEFT_OUT) for row in connection.execute(query)]

    def of_image(self, image: Image, count: int, *, unfinished: bool = False) -> Sequence[Ticket]:
        """Return an image's newest tickets, or its newest unfinished ones.

        Leaves out the tickets of an earlier image that had the same id.
        """
        mine = (
            tickets.c.image_id == image.id,
            tickets.c.owner == image.owner,
            tickets.c.appliance_id == image.appliance_id,
            tickets.c.created >= image.created,
        )
        query = select(*_COLUMNS).where(*mine).order_by(tickets.c.id.desc()).limit(count)
        if unfinished:
            query = query.where(tickets.c.state.not_in(FINAL))
        with reading(self._engine) as connection:
            return [ticket_of(row, _LEFT_OUT) for row in connection.execute(query)]

    def counts(self, owner: str | None = None) -> dict[State, int]:
        """Count the tickets in each state. A count of `COUNTED_MAX` + 1 means that there may be more."""
        with reading(self._engine) as connection:
            return {state: connection.execute(_count_query(state, owner)).scalar_one() for state in State}

    def platforms(self) -> Sequence[str]:
        """Return the platforms that have tickets."""
        first = select(func.min(tickets.c.platform).label("platform")).cte("there", recursive=True)
        # Jump from one platform to the next, so that only one entry of the index is read for each.
        following = select(func.min(tickets.c.platform)).where(tickets.c.platform > first.c.platform).scalar_subquery()
        there = first.union_all(select(following).where(first.c.platform.is_not(None)))
        with reading(self._engine) as connection:
            found = connection.execute(select(there.c.platform).where(there.c.platform.is_not(None)))
            return found.scalars().all()

    def rates(self, ids: Collection[int]) -> dict[int, float]:
        """Return the mean rate of each ticket's upload, in bytes per second, in the last attempt that has a rate.

        Tickets without a rate are left out.
        """
        took, sent = (
            func.max(samples.c.at) - func.min(samples.c.at),
            func.max(samples.c.sent) - func.min(samples.c.sent),
        )
        query = (
            select(samples.c.ticket_id, sent, took)
            .where(samples.c.ticket_id.in_(ids))
            .group_by(samples.c.ticket_id, samples.c.attempt)
            .order_by(samples.c.attempt)
        )
        with reading(self._engine) as connection:
            return {id: sent / took for id, sent, took in connection.execute(query) if took > 0}

    def last_of_account(self, account_id: int, owner: str) -> Ticket | None:
        """Return the owner's newest ticket with this stored account. Searches the `COUNTED_MAX` newest tickets only."""
        recent = select(tickets.c.id).where(tickets.c.owner == owner).order_by(tickets.c.id.desc()).limit(COUNTED_MAX)
        query = select(*TICKET_COLUMNS).where(tickets.c.id.in_(recent), tickets.c.account_id == account_id)
        with reading(self._engine) as connection:
            row = connection.execute(query.order_by(tickets.c.id.desc()).limit(1)).one_or_none()
            return None if row is None else ticket_of(row)

    def notifications(self, ticket_id: int) -> Sequence[NotificationStanding]:
        """Return the notifications of a ticket, oldest first."""
        columns = [notifications.c[name] for name in NotificationStanding.__slots__]
        query = select(*columns).where(notifications.c.ticket_id == ticket_id).order_by(notifications.c.id)
        with reading(self._engine) as connection:
            return [NotificationStanding(*row) for row in connection.execute(query)]


def page_query(wanted: Wanted, count: int, *, before: int | None = None, after: int | None = None) -> Select[Any]:
    """Select one ticket more than `count`, to see whether there are more. With `after`, the oldest come first."""
    query = select(*_COLUMNS).where(*_conditions(wanted)).limit(count + 1)
    if after is not None:
        return query.where(tickets.c.id > after).order_by(tickets.c.id)
    if before is not None:
        query = query.where(tickets.c.id < before)
    return query.order_by(tickets.c.id.desc())


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.owner is not None:
        conditions.append(tickets.c.owner == wanted.owner)
    if wanted.state is not None:
        conditions.append(tickets.c.state == wanted.state)
    if wanted.platform:
        conditions.append(tickets.c.platform == wanted.platform)
    if wanted.words:
        named = tickets.c.name.icontains(wanted.words, autoescape=True)
        id = parse_id(wanted.words.removeprefix("#"))
        conditions.append(named if id is None else or_(named, tickets.c.id == id))
    return conditions


def _count_query(state: State, owner: str | None) -> Select[int]:
    conditions = [tickets.c.state == state] + ([] if owner is None else [tickets.c.owner == owner])
    some = select(tickets.c.id).where(*conditions).limit(COUNTED_MAX + 1).subquery()
    return select(func.count()).select_from(some)
