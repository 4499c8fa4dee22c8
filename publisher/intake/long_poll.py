"""Long polling: callers wait for a ticket to change. One query, ten times a second, serves all of them.

A waiting caller holds no thread and no connection to the database. While nobody waits, there are no queries.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Request
from sqlalchemy.exc import TimeoutError as StoreTimeout
from starlette.requests import ClientDisconnect

from publisher.core.errors import InvalidRequest, NotFound
from publisher.core.ticket import Ticket
from publisher.intake.caller import Parameter
from publisher.intake.documents import status_document
from publisher.intake.wire.codec import write_document
from publisher.store import Store
from publisher.store.ticket_rows import Version, version_of
from publisher.web.conditional import Rendered, caller_has, etag_of, is_conditional
from publisher.web.negotiation import Format

logger = logging.getLogger(__name__)

WAIT_MAX_SECONDS = 60
"""Proxies take a longer silence for a failure."""
WAIT = Parameter(
    "wait",
    "Seconds to hold the answer until the status differs from that of `If-None-Match` or, without one, changes.",
    {"type": "number", "minimum": 0, "maximum": WAIT_MAX_SECONDS},
)
_LOOK_SECONDS = 0.1
_STALE_SECONDS = 5.0
"""If the last query is older, the store counts as unavailable."""
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def wait_seconds(request: Request) -> float:
    """Return the query's `wait`: how many seconds the answer may be held; 0 without one. Raises `InvalidRequest`."""
    given = request.query_params.getlist(WAIT.name)
    if not given:
        return 0.0
    if len(given) > 1 or not _NUMBER.fullmatch(given[0]) or float(given[0]) > WAIT_MAX_SECONDS:
        raise InvalidRequest(f"must be one number of seconds from 0 to {WAIT_MAX_SECONDS}", field=WAIT.name)
    return float(given[0])


class TicketStatus:
    """A ticket as it was read, and its status, which is written once for all who wait for it."""

    __slots__ = ("_written", "ticket", "version")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.version = version_of(ticket)
        self._written: dict[Format, Rendered] = {}

    def status(self, form: Format) -> Rendered:
        """Return the status. Its ETag comes from the ticket's version, so a 304 needs no document."""
        if form not in self._written:
            etag = etag_of(form.content_type, self.ticket.id, self.ticket.uid, self.version)
            changed = math.ceil(self.ticket.changed)
            self._written[form] = Rendered(lambda: self._write(form), form.content_type, etag, changed)
        return self._written[form]

    def _write(self, form: Format) -> bytes:
        return write_document(form, "status", status_document(self.ticket))


@dataclass(slots=True, eq=False)
class _Group:
    """The callers who have seen the same version of the same ticket."""

    sight: TicketStatus
    waiters: set[asyncio.Future[TicketStatus]] = field(default_factory=set)


_Seen = tuple[int, Version]


class Watcher:
    """Answers the waiting callers of one intake process. Its methods run in the event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: dict[_Seen, _Group] = {}
        self._task: asyncio.Task[None] | None = None
        # A thread of its own: in the common pool the query would queue behind all new requests.
        self._thread = CapacityLimiter(1)
        self._looked = -math.inf
        self._away = False
        self._closed = False

    def __len__(self) -> int:
        """Return how many callers wait."""
        return sum(len(group.waiters) for group in self._groups.values())

    async def status(self, request: Request, form: Format, ticket: Ticket, seconds: float) -> Rendered:
        """Return a ticket's status as soon as it is new to the caller, or after that many seconds.

        A conditional request is held while its answer would be 304; any other request is held until the ticket changes.
        A ticket that has ended is answered at once. Raises `NotFound` if the ticket is deleted meanwhile,
        `SQLAlchemyError` if the store is unavailable at the end, and `ClientDisconnect`.
        """
        sight = TicketStatus(ticket)
        conditional = is_conditional(request)
        until = asyncio.get_running_loop().time() + seconds
        gone: asyncio.Task[None] | None = None
        try:
            while not sight.ticket.final and (not conditional or _known(request, sight.status(form))):
                gone = gone or asyncio.create_task(_hung_up(request))
                later = await self._changed(sight, until, gone)
                if later.version == sight.version:
                    return later.status(form)
                sight = later
                if not conditional:
                    break
        finally:
            if gone is not None:
                gone.cancel()
        return sight.status(form)

    def close(self) -> None:
        """Answer all who wait now, and hold no further request."""
        self._closed = True
        for group in self._groups.values():
            for waiter in group.waiters:
                _wake(waiter, group.sight)
        if self._task is not None:
            self._task.cancel()

    async def _changed(self, sight: TicketStatus, until: float, gone: asyncio.Task[None]) -> TicketStatus:
        """Return the ticket as soon as it differs from what was seen, or what was seen when the time is up."""
        loop = asyncio.get_running_loop()
        if self._closed or loop.time() >= until:
            return sight
        seen = sight.ticket.id, sight.version
        group = self._groups.setdefault(seen, _Group(sight))
        waiter: asyncio.Future[TicketStatus] = loop.create_future()
        group.waiters.add(waiter)
        timer = loop.call_at(until, self._time_is_up, waiter, group)
        hang_up = _hang_up(waiter)
        gone.add_done_callback(hang_up)
        if self._task is None:
            self._looked = loop.time()
            self._task = loop.create_task(self._watch())
        try:
            return await waiter
        finally:
            timer.cancel()
            gone.remove_done_callback(hang_up)
            group.waiters.discard(waiter)
            if not group.waiters and self._groups.get(seen) is group:
                del self._groups[seen]

    def _time_is_up(self, waiter: asyncio.Future[TicketStatus], group: _Group) -> None:
        stale = asyncio.get_running_loop().time() - self._looked > _STALE_SECONDS
        if not self._away and not stale:
            _wake(waiter, group.sight)
        elif not waiter.done():
            waiter.set_exception(StoreTimeout("the tickets that callers wait for cannot be read"))

    async def _watch(self) -> None:
        try:
            while self._groups:
                await asyncio.sleep(_LOOK_SECONDS)
                await self._look()
        finally:
            self._task = None

    async def _look(self) -> None:
        began = asyncio.get_running_loop().time()
        # A caller who comes during the query may have seen a newer version than the query returns.
        seen = list(self._groups)
        try:
            changed = await anyio.to_thread.run_sync(self._read, seen, limiter=self._thread)
        except Exception as error:  # whatever it is: those who wait get an answer, and the next query may succeed
            if not self._away:
                logger.error("the tickets that callers wait for cannot be read: %s", type(error).__name__)
            self._away = True
            return
        self._looked, self._away = began, False
        for each, sight in changed.items():
            group = self._groups.pop(each, None)
            for waiter in group.waiters if group else ():
                if sight is not None:
                    _wake(waiter, sight)
                elif not waiter.done():
                    waiter.set_exception(NotFound(f"published image {each[0]} was deleted"))

    def _read(self, seen: list[_Seen]) -> dict[_Seen, TicketStatus | None]:
        """Return the tickets that have changed since they were seen; None for those that do not exist any more."""
        versions = self._store.tickets.versions({id for id, _ in seen})
        changed = [(id, version) for id, version in seen if versions.get(id) != version]
        found = self._store.tickets.several({id for id, _ in changed})
        sights = {id: TicketStatus(ticket) for id, ticket in found.items()}
        return {each: sights.get(each[0]) for each in changed}


def _known(request: Request, status: Rendered) -> bool:
    return caller_has(request, status.etag, status.changed)


def _wake(waiter: asyncio.Future[TicketStatus], sight: TicketStatus) -> None:
    if not waiter.done():
        waiter.set_result(sight)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        """Ignore the request's body."""


def _hang_up(waiter: asyncio.Future[TicketStatus]) -> Callable[[object], None]:
    def hang_up(_: object) -> None:
        if not waiter.done():
            waiter.set_exception(ClientDisconnect())

    return hang_up
