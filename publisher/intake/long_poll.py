"""Long polling: callers wait for a ticket to change. One query, up to twenty times a second, serves all of them.

A waiting caller holds no thread and no connection to the database. While nobody waits, there are no queries.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from sqlalchemy.exc import TimeoutError as StoreTimeout
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from publisher.core.errors import InvalidRequest, NotFound
from publisher.core.ticket import Ticket
from publisher.intake.caller import Parameter
from publisher.intake.documents import status_document
from publisher.intake.wire.formats import Format
from publisher.intake.wire.writing import write_document
from publisher.store import Store, Version, version_of
from publisher.web import Rendered, caller_has, etag_of, is_conditional, respond, unchanged

logger = logging.getLogger(__name__)

WAIT_MAX_SECONDS = 60
"""Proxies take a longer silence for a failure."""
WAIT = Parameter(
    "wait",
    "Seconds to hold the answer until the status differs from that of `If-None-Match` or, without one, changes.",
    {"type": "number", "minimum": 0, "maximum": WAIT_MAX_SECONDS},
)
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.05, 0.1
_PAUSE_PER_QUERY = 100
"""The pause after a query, relative to the time that it took: a query for thousands of tickets is made less often."""
_READ_AT_ONCE = 500
"""Number of changed tickets to read before their callers are woken."""
_WOKEN_AT_ONCE = 50
"""Number of callers to wake before the event loop serves others: their answers take some ten milliseconds."""
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


_Seen = tuple[int, Version]
"""A ticket, and the version of it that somebody has seen."""
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class TicketStatus:
    """A ticket as it was read, and its status, which is written once for all who wait for it."""

    __slots__ = ("_shared", "_written", "seen", "ticket", "version")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.version = version_of(ticket)
        self.seen: _Seen = ticket.id, self.version
        self._written: dict[Format, Rendered] = {}
        self._shared: dict[Format, tuple[int, Response]] = {}

    def status(self, form: Format) -> Rendered:
        """Return the status. Its ETag comes from the ticket's version, so a 304 needs no document."""
        if form not in self._written:
            etag = etag_of(form.content_type, self.ticket.id, self.ticket.uid, self.version)
            changed = math.ceil(self.ticket.changed)
            self._written[form] = Rendered(lambda: self._write(form), form.content_type, etag, changed)
        return self._written[form]

    def answer(self, request: Request, form: Format, *, conditional: bool) -> Response:
        """Return a 304, or the 200 that all share who waited. That is made again when its Last-Modified changes."""
        status = self.status(form)
        if conditional and _known(request, status):
            return unchanged(status.etag, status.changed)
        modified = min(status.changed, math.floor(time.time()))
        made, answer = self._shared.get(form, (None, None))
        if answer is None or made != modified:
            answer = respond(request, status)
            self._shared[form] = modified, answer
        return answer

    def _write(self, form: Format) -> bytes:
        return write_document(form, "status", status_document(self.ticket))


class _Waiter:
    """A caller who waits. Its task waits for the caller to hang up, until a result interrupts that.

    So a caller needs no further task. `asyncio.timeout` interrupts a task in the same way.
    """

    __slots__ = ("_result", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._result: TicketStatus | Exception | None = None

    def wake(self, result: TicketStatus | Exception) -> None:
        """End the wait with a result, or with an error to raise. Has no effect if the wait has already ended."""
        if self._task is not None and self._result is None:
            self._result = result
            self._task.cancel()

    async def result(self, request: Request) -> TicketStatus:
        """Return the result as soon as there is one. Raises `ClientDisconnect` if the caller hangs up before."""
        self._task = task = asyncio.current_task()
        try:
            while (await request.receive())["type"] != "http.disconnect":
                """Ignore the request's body."""
        except asyncio.CancelledError:
            if self._result is None or task is None or task.uncancel():  # somebody else cancels the task
                raise
        else:
            raise ClientDisconnect
        finally:
            self._task = None
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@dataclass(slots=True, eq=False)
class _Group:
    """The callers who have seen the same version of the same ticket."""

    sight: TicketStatus
    waiters: dict[_Waiter, None] = field(default_factory=dict)
    """In the order in which they came. So they are woken in the order of memory, which takes much less time."""


class Watcher:
    """Answers the waiting callers of one intake process. Its methods run in the event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: dict[_Seen, _Group] = {}
        self._task: asyncio.Task[None] | None = None
        # A thread of its own: in the common pool the query would queue behind all new requests.
        self._thread = CapacityLimiter(1)
        self._looked = -math.inf
        self._pause_seconds = _PAUSE_SECONDS_MIN
        self._away = False
        self._closed = False

    def __len__(self) -> int:
        """Return how many callers wait."""
        return sum(len(group.waiters) for group in self._groups.values())

    async def answer(self, request: Request, form: Format, ticket: Ticket, seconds: float) -> Response:
        """Answer with a ticket's status as soon as it is new to the caller, or after that many seconds.

        A conditional request is held while its answer would be 304; any other request is held until the ticket changes.
        A ticket that has ended is answered at once. Raises `NotFound` if the ticket is deleted meanwhile,
        `SQLAlchemyError` if the store is unavailable at the end, and `ClientDisconnect`.
        """
        sight = TicketStatus(ticket)
        if seconds <= 0 or ticket.final:
            return respond(request, sight.status(form))
        if (group := self._groups.get(sight.seen)) is not None:
            sight = group.sight
        conditional = is_conditional(request)
        until = asyncio.get_running_loop().time() + seconds
        while not sight.ticket.final and (not conditional or _known(request, sight.status(form))):
            later = await self._changed(request, sight, until)
            is_same = later.version == sight.version
            sight = later
            if is_same or not conditional:
                break
        return sight.answer(request, form, conditional=conditional)

    def close(self) -> None:
        """Answer all who wait now, and hold no further request."""
        self._closed = True
        for group in self._groups.values():
            for waiter in group.waiters:
                waiter.wake(group.sight)
        if self._task is not None:
            self._task.cancel()

    async def _changed(self, request: Request, sight: TicketStatus, until: float) -> TicketStatus:
        """Return the ticket as soon as it differs from what was seen, or what was seen when the time is up."""
        loop = asyncio.get_running_loop()
        if self._closed or loop.time() >= until:
            return sight
        group = self._groups.setdefault(sight.seen, _Group(sight))
        waiter = _Waiter()
        group.waiters[waiter] = None
        timer = loop.call_at(until, self._time_is_up, waiter, group)
        if self._task is None:
            self._looked = loop.time()
            self._task = loop.create_task(self._watch())
        try:
            return await waiter.result(request)
        finally:
            timer.cancel()
            group.waiters.pop(waiter, None)
            if not group.waiters and self._groups.get(sight.seen) is group:
                del self._groups[sight.seen]

    def _time_is_up(self, waiter: _Waiter, group: _Group) -> None:
        stale = asyncio.get_running_loop().time() - self._looked > _STALE_SECONDS
        if self._away or stale:
            waiter.wake(StoreTimeout("the tickets that callers wait for cannot be read"))
        else:
            waiter.wake(group.sight)

    async def _watch(self) -> None:
        try:
            while self._groups:
                await asyncio.sleep(self._pause_seconds)
                await self._look()
        finally:
            self._task = None

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # A caller who comes during the query may have seen a newer version than the query returns.
        seen = list(self._groups)
        try:
            changed = await self._in_thread(self._changed_since, seen)
            self._looked = began
            self._pause_seconds = _pause_seconds(loop.time() - began)
            for at in range(0, len(changed), _READ_AT_ONCE):
                part = changed[at : at + _READ_AT_ONCE]
                await self._wake(part, await self._in_thread(self._read, {id for id, _ in part}))
        except Exception as error:  # whatever it is: those who wait get an answer, and the next query may succeed
            if not self._away:
                logger.error("the tickets that callers wait for cannot be read: %s", type(error).__name__)
            self._away = True
            self._pause_seconds = _PAUSE_SECONDS_MAX
            return
        self._away = False

    async def _wake(self, changed: list[_Seen], sights: dict[int, TicketStatus]) -> None:
        """Give the changed tickets to those who wait for them. Tickets that are not in `sights` do not exist any more.

        The callers are woken in slices, so that the event loop serves others meanwhile.
        """
        woken = 0
        for each in changed:
            group = self._groups.get(each)  # those who end their wait leave it
            for waiter in list(group.waiters) if group else ():
                waiter.wake(sights.get(each[0]) or NotFound(f"published image {each[0]} was deleted"))
                woken += 1
                if woken % _WOKEN_AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def _in_thread(self, read: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        return await anyio.to_thread.run_sync(read, argument, limiter=self._thread)

    def _changed_since(self, seen: list[_Seen]) -> list[_Seen]:
        """Return what has changed since it was seen, deleted tickets included."""
        versions = self._store.tickets.versions({id for id, _ in seen})
        return [(id, version) for id, version in seen if versions.get(id) != version]

    def _read(self, ids: Collection[int]) -> dict[int, TicketStatus]:
        return {id: TicketStatus(ticket) for id, ticket in self._store.tickets.several(ids).items()}


def _pause_seconds(query_seconds: float) -> float:
    return min(max(_PAUSE_SECONDS_MIN, _PAUSE_PER_QUERY * query_seconds), _PAUSE_SECONDS_MAX)


def _known(request: Request, status: Rendered) -> bool:
    return caller_has(request, status.etag, status.changed)
