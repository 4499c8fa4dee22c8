"""Lists of tickets: for people newest first and page by page, for programs as a whole, oldest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Engine, Select, bindparam, cast, func, select

from publisher.core.image import Image
from publisher.core.ticket import DONE_WITH_IMAGE, State, Ticket, mean_rate
from publisher.store.database import images, reading, samples, ticket_names, tickets
from publisher.store.ticket_rows import (
    TICKET_COLUMNS,
    Extent,
    TicketFilter,
    extent_columns,
    select_tickets,
    ticket_and_image,
    ticket_of,
)

WHOLE_PAGE = 100
"""Number of tickets in a page of a whole list: some hundred kilobytes as a document."""
_SOON = 10
"""Number of tickets that a whole list begins with: a few, so that the first byte comes soon."""
_MICROSECONDS = 1e6
_SUM_BITS = (1 << 36) - 1
"""Only these bits of a value are summed up, so that the sum of millions of them fits into 64 bits."""
_TRIGRAM = 3
COUNTED_MAX = 1000
"""Counting stops above this number, because it would take ever longer."""


@dataclass(frozen=True, slots=True)
class PublicationPage:
    """A page of tickets, newest first. Their accounts and targets are left out."""

    tickets: Sequence[Ticket]
    newer: bool
    """Whether there are newer tickets, beyond this page."""
    older: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """The upload of one attempt, from its samples. Times are seconds since the epoch, sizes bytes."""

    attempt: int
    samples: int
    first: float
    last: float
    sent_first: int
    sent_last: int

    @property
    def bytes_per_second(self) -> float | None:
        """The mean rate; None if there is only one sample."""
        return mean_rate(self.sent_last - self.sent_first, self.last - self.first)


@dataclass(frozen=True, slots=True)
class ListState:
    """What a whole list consists of at one moment."""

    total: int
    changed: float
    """When anything in it last changed, in seconds since the epoch; 0 if it is empty."""
    version: str
    """A text that changes whenever anything in the list changes that callers see."""
    last_id: int
    """No ticket of the list has a higher id."""


@dataclass(frozen=True, slots=True)
class WholeList:
    """A whole list, in pages of at most `WHOLE_PAGE` tickets with their images. Each is read when it is taken."""

    state: ListState
    pages: Iterator[Sequence[tuple[Ticket, Image | None]]]
    short: bool
    """Whether the first page has the whole list."""


class Publications:
    """Lists of tickets, and figures for them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self, wanted: TicketFilter, count: int, *, before: int | None = None, after: int | None = None
    ) -> PublicationPage:
        """Return the newest tickets; or the next ones older than the ticket `before`, or newer than `after`."""
        with reading(self._engine) as connection:
            query = page_query(_narrowed(connection, wanted), count, before=before, after=after)
            rows = [ticket_of(row, brief=True) for row in connection.execute(query)]
        more, found = len(rows) > count, rows[:count]
        if after is not None:
            return PublicationPage(found[::-1], newer=more, older=True)
        return PublicationPage(found, newer=before is not None, older=more)

    def these(self, ids: Collection[int]) -> Sequence[Ticket]:
        """Return those of these tickets that exist, newest first as in a page."""
        return self._read(select_tickets(TicketFilter(ids=ids), newest_first=True, brief=True))

    def whole(
        self, wanted: TicketFilter, extent: Extent, *, unless: Callable[[ListState], bool] = lambda _: False
    ) -> WholeList | ListState:
        """Return all wanted tickets, oldest first. If `unless` holds for the list's state, return only that.

        The list's state and its first page are read together. Each further page is read in a transaction of its own,
        from the last ticket on: a caller that takes its time holds no connection, and no old rows in the database. So
        the total is the one at the beginning. Tickets that are created later are left out. A ticket that is deleted
        before its page is read is missing although it was counted. A ticket that changes before is shown as it is then;
        that gives the list another state, so nobody takes it for the current one for longer.
        """
        with reading(self._engine, together=True) as connection:
            state = _list_state(connection, wanted, extent)
            if unless(state):
                return state
            first = _whole_page(connection, wanted, extent, 0, state.last_id)
        return WholeList(state, self._pages(wanted, extent, first, state.last_id), state.total <= WHOLE_PAGE)

    def _pages(
        self, wanted: TicketFilter, extent: Extent, page: Sequence[tuple[Ticket, Image | None]], last_id: int
    ) -> Iterator[Sequence[tuple[Ticket, Image | None]]]:
        parts = [page[:_SOON], page[_SOON:]]
        while page:
            yield from filter(None, parts)
            if len(page) < WHOLE_PAGE or page[-1][0].id == last_id:
                return
            with reading(self._engine) as connection:
                page = _whole_page(connection, wanted, extent, page[-1][0].id, last_id)
            parts = [page]

    def of_image(self, image: Image, count: int, *, unfinished: bool = False) -> Sequence[Ticket]:
        """Return an image's newest tickets, or its newest unfinished ones.

        Leaves out the tickets of an earlier image that had the same id.
        """
        wanted = TicketFilter(image.owner, image.appliance_id, image.id)
        query = select_tickets(wanted, count=count, newest_first=True, brief=True)
        query = query.where(tickets.c.created >= image.created)
        return self._read(query.where(tickets.c.state.not_in(DONE_WITH_IMAGE)) if unfinished else query)

    def _read(self, query: Select[Any]) -> Sequence[Ticket]:
        with reading(self._engine) as connection:
            return [ticket_of(row, brief=True) for row in connection.execute(query)]

    def counts(self, owner: str | None = None) -> dict[State, int]:
        """Count the tickets in each state. A count of `COUNTED_MAX` + 1 means that there may be more."""
        with reading(self._engine) as connection:
            given = {} if owner is None else {"owner": owner}
            counts = {state: _count_query(state, of_one=owner is not None) for state in State}
            return {state: connection.execute(query, given).scalar_one() for state, query in counts.items()}

    def platforms(self) -> Sequence[str]:
        """Return the platforms that have tickets."""
        first = select(func.min(tickets.c.platform).label("platform")).cte("there", recursive=True)
        # Jump from one platform to the next, so that only one entry of the index is read for each.
        following = select(func.min(tickets.c.platform)).where(tickets.c.platform > first.c.platform).scalar_subquery()
        there = first.union_all(select(following).where(first.c.platform.is_not(None)))
        with reading(self._engine) as connection:
            found = connection.execute(select(there.c.platform).where(there.c.platform.is_not(None)))
            return found.scalars().all()

    def uploads(self, ids: Collection[int]) -> dict[int, list[Upload]]:
        """Return the uploads of each ticket, the first attempt first. Tickets without samples are left out."""
        query = (
            select(
                samples.c.ticket_id,
                samples.c.attempt,
                func.count(),
                *(func.min(samples.c.at), func.max(samples.c.at)),
                *(func.min(samples.c.sent), func.max(samples.c.sent)),
            )
            .where(samples.c.ticket_id.in_(ids))
            .group_by(samples.c.ticket_id, samples.c.attempt)
            .order_by(samples.c.attempt)
        )
        found: dict[int, list[Upload]] = {}
        with reading(self._engine) as connection:
            for id, *values in connection.execute(query):
                found.setdefault(id, []).append(Upload(*values))
        return found

    def rates(self, ids: Collection[int]) -> dict[int, float]:
        """Return the mean rate of each ticket's upload, in bytes per second, in the last attempt that has a rate.

        Tickets without a rate are left out.
        """
        uploads = self.uploads(ids).items()
        return {
            id: rate for id, attempts in uploads for each in attempts if (rate := each.bytes_per_second) is not None
        }

    def last_of_account(self, account_id: int, owner: str) -> Ticket | None:
        """Return the owner's newest ticket with this stored account. Searches the `COUNTED_MAX` newest tickets only."""
        recent = select(tickets.c.id).where(tickets.c.owner == owner).order_by(tickets.c.id.desc()).limit(COUNTED_MAX)
        query = select(*TICKET_COLUMNS).where(tickets.c.id.in_(recent), tickets.c.account_id == account_id)
        with reading(self._engine) as connection:
            row = connection.execute(query.order_by(tickets.c.id.desc()).limit(1)).one_or_none()
            return None if row is None else ticket_of(row)


def page_query(wanted: TicketFilter, count: int, *, before: int | None = None, after: int | None = None) -> Select[Any]:
    """Select one ticket more than `count`, to see whether there are more. With `after`, the oldest come first."""
    if after is not None:
        return select_tickets(wanted, count=count + 1, after=after, brief=True)
    return select_tickets(wanted, count=count + 1, before=before, newest_first=True, brief=True)


def _narrowed(connection: Connection, wanted: TicketFilter) -> TicketFilter:
    """Look up the searched words in the index of names, and restrict the filter to the tickets with such a name.

    Returns the filter unchanged if there are very many: the page is full after reading a few of the newest tickets.
    The filter still compares the names. The index needs three characters in a row.
    """
    if wanted.ids is not None or all(len(part) < _TRIGRAM for part in re.split("[%_]", wanted.words)):
        return wanted
    query = names_query(connection.dialect.name, wanted.words).limit(COUNTED_MAX + 1)
    found = connection.execute(query).scalars().all()
    return wanted if len(found) > COUNTED_MAX else replace(wanted, ids=[*found, *wanted.number])


def _list_state(connection: Connection, wanted: TicketFilter, extent: Extent) -> ListState:
    """Read the state of a whole list.

    The sum finds each change: every change of a ticket or an image sets one of its times, or its progress, to a new
    value. The latest time alone would not: of two transactions, the one with the earlier time may commit last.
    """
    moments = tickets.c.modified + func.coalesce(tickets.c.progressed, 0.0)
    latest = func.max(tickets.c.modified), func.max(tickets.c.progressed)
    query = select(func.count(), *latest, _sum(moments, tickets.c.sent)).where(*wanted.conditions())
    total, modified, progressed, sums = connection.execute(query).one()
    last_id = connection.execute(select(func.max(tickets.c.id))).scalar_one() or 0
    if not total:
        return ListState(0, 0.0, "", last_id)
    changed, version = max(modified, progressed or 0.0), f"{total} {sums}"
    if extent is Extent.WHOLE:
        # The answer describes the images, too.
        latest_image = func.coalesce(func.max(images.c.modified), 0.0)
        of_images = select(func.count(), latest_image, _sum(images.c.modified, images.c.downloads))
        number, modified, sums = connection.execute(of_images.where(images.c.owner == wanted.owner)).one()
        changed, version = max(changed, modified), f"{version} {number} {sums}"
    return ListState(total, changed, version, last_id)


def _sum(moments: ColumnElement[float], numbers: ColumnElement[int]) -> ColumnElement[int]:
    """Sum up moments in microseconds and numbers: one sum, because each takes time with a hundred thousand tickets."""
    return func.sum((cast(moments * _MICROSECONDS, BigInteger) + numbers).bitwise_and(_SUM_BITS))


def _whole_page(
    connection: Connection, wanted: TicketFilter, extent: Extent, after: int, last_id: int
) -> Sequence[tuple[Ticket, Image | None]]:
    rows = connection.execute(whole_page_query(wanted, extent, after, last_id))
    return [(ticket, image) for ticket, image in (ticket_and_image(extent, row) for row in rows) if ticket]


def whole_page_query(wanted: TicketFilter, extent: Extent, after: int, last_id: int) -> Select[Any]:
    """Select the tickets of a page of a whole list: those with an id above `after`, up to `last_id`."""
    query = select(*extent_columns(extent)).where(*wanted.conditions(), tickets.c.id > after, tickets.c.id <= last_id)
    if extent is Extent.WHOLE:
        query = query.join_from(tickets, images, images.c.id == tickets.c.image_id, isouter=True)
    return query.order_by(tickets.c.id).limit(WHOLE_PAGE)


def names_query(database: str, words: str) -> Select[int]:
    """Select the tickets that have the words in their names, by the index of names. On SQLite, also some others."""
    # SQLite's index does not know ESCAPE. Without it, `%` and `_` match more than themselves.
    on_sqlite = ticket_names.c.name.bool_op("LIKE")(f"%{words}%")
    named = on_sqlite if database == "sqlite" else ticket_names.c.name.icontains(words, autoescape=True)
    return select(ticket_names.c.rowid).where(named)


@cache
def _count_query(state: State, *, of_one: bool) -> Select[int]:
    """Count the tickets in that state: all, or those of `:owner`. Built once, because pages are updated by it."""
    some = select(tickets.c.id).where(tickets.c.state == state).limit(COUNTED_MAX + 1)
    if of_one:
        some = some.where(tickets.c.owner == bindparam("owner"))
    return select(func.count()).select_from(some.subquery())
