"""Callers that wait for a ticket to change: one look at the store, ten times a second, for all of them.

Who waits holds no thread and no connection to the database; while nobody waits, nothing is looked at.
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
from publisher.intake.caller import Parameter, rendered
from publisher.intake.documents import status_document
from publisher.store import Store
from publisher.store.ticket_rows import Version, version_of
from publisher.web.conditional import Rendered, caller_has, is_conditional, last_modified
from publisher.web.negotiation import Format

logger = logging.getLogger(__name__)

WAIT_MAX_SECONDS = 60
"""Proxies take longer silence for a fault."""
WAIT = Parameter(
    "wait",
    "Seconds to hold the answer until the status is another than that of `If-None-Match`, or than at first.",
    {"type": "number", "minimum": 0, "maximum": WAIT_MAX_SECONDS},
)
_LOOK_SECONDS = 0.1
_STALE_SECONDS = 5.0
"""What was last read so long ago is no answer any more: the store is as good as away."""
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def wait_seconds(request: Request) -> float:
    """How long the query's `wait` lets an answer be held; 0 without one. Raises `InvalidRequest`."""
    given = request.query_params.getlist(WAIT.name)
    if not given:
        return 0.0
    if len(given) > 1 or not _NUMBER.fullmatch(given[0]) or float(given[0]) > WAIT_MAX_SECONDS:
        raise InvalidRequest(f"is one number of seconds from 0 to {WAIT_MAX_SECONDS}", field=WAIT.name)
    return float(given[0])


class TicketStatus:
    """A ticket as it was read, and its status, written once for all who wait for it."""

    __slots__ = ("_written", "ticket", "version")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.version = version_of(ticket)
        self._written: dict[Format, Rendered] = {}

    def status(self, form: Format) -> Rendered:
        if form not in self._written:
            document = status_document(self.ticket)
            self._written[form] = rendered(form, "status", document, last_modified(self.ticket))
        return self._written[form]


@dataclass(slots=True, eq=False)
class _Group:
    """Those who have seen the same of the same ticket."""

    sight: TicketStatus
    waiters: set[asyncio.Future[TicketStatus]] = field(default_factory=set)


_Seen = tuple[int, Version]


class Watcher:
    """Of one intake process; used in its event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: dict[_Seen, _Group] = {}
        self._task: asyncio.Task[None] | None = None
        # Of its own: in the common pool it would queue behind all who arrive.
        self._thread = CapacityLimiter(1)
        self._looked = -math.inf
        self._away = False
        self._closed = False

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(group.waiters) for group in self._groups.values())

    async def status(self, request: Request, form: Format, ticket: Ticket, seconds: float) -> Rendered:
        """A ticket's status; held back, at most so long, while it is none that the caller does not have.

        A conditional request is held while its answer would be 304, another one until the ticket changes. What has
        ended is not waited for. Raises `NotFound` where the ticket is deleted meanwhile, `SQLAlchemyError` where the
        store is away at the end, `ClientDisconnect`.
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
        """Answer all who wait now, and hold nobody from here on."""
        self._closed = True
        for group in self._groups.values():
            for waiter in group.waiters:
                _wake(waiter, group.sight)
        if self._task is not None:
            self._task.cancel()

    async def _changed(self, sight: TicketStatus, until: float, gone: asyncio.Task[None]) -> TicketStatus:
        """The ticket once it is not as it was seen; as it was seen where the time is up before."""
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
        # Who comes while the store is being read may have seen more than this look.
        seen = list(self._groups)
        try:
            changed = await anyio.to_thread.run_sync(self._read, seen, limiter=self._thread)
        except Exception as error:  # whatever it is, those who wait are answered, and the next look may succeed
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
                    waiter.set_exception(NotFound(f"there is no published image {each[0]} any more"))

    def _read(self, seen: list[_Seen]) -> dict[_Seen, TicketStatus | None]:
        """Those of them that are not as they were seen, and how they are now; None where there is none any more."""
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
        """A body, which nobody needs."""


def _hang_up(waiter: asyncio.Future[TicketStatus]) -> Callable[[object], None]:
    def hang_up(_: object) -> None:
        if not waiter.done():
            waiter.set_exception(ClientDisconnect())

    return hang_up
