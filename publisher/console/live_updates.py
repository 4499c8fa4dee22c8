"""Pages that keep up with the store while they are open, by server-sent events.

Each open page has its part of the store looked at once a second, whichever process changed it, and is sent what is not
as it was: elements of the page, made by the same templates as the page itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send

from publisher.core.errors import NotFound, TooMany

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_AT_ONCE = 4
"""Looks at a time: whoever asks for a page is not to wait behind those that are open."""
_OF_USER = 20
"""As many pages a user may have open, so that others have some, too."""
_ASSURE_SECONDS = 15.0
"""How often it is looked whether the user is still signed in, with the same rights, and something is sent, so that no
proxy takes the silence for a fault."""


@dataclass(frozen=True, slots=True)
class PageParts:
    """A page's changing elements, as they are now: HTML by the `id` of each.

    `lists`: of each list in the page, by its `id`, those of its items in their order.
    """

    parts: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Streams:
    """Of one intake process. Streams live in its event loop; `response` may be called from any thread."""

    def __init__(self, most: int, look_seconds: float = _LOOK_SECONDS) -> None:
        self._most = most
        self._look_seconds = look_seconds
        self._open: set[asyncio.Event] = set()
        self._of_users: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._closed = False
        self._threads = CapacityLimiter(_AT_ONCE)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def response(self, look: Callable[[], PageParts], allowed: Callable[[], bool], login: str) -> StreamingResponse:
        """Raises `TooMany`. `look` and `allowed` ask the store, and run in a thread; where `look` raises `NotFound`, or
        `allowed` is False, the page is told to load itself again. `login` is whose page it is."""
        self._begin(login)
        return _EventStream(self._events(look, allowed), lambda: self._end(login))

    def _begin(self, login: str) -> None:
        with self._counting:
            if self._of_users.total() >= self._most:
                raise TooMany("so many pages are open that this one cannot be kept up to date")
            if self._of_users[login] >= _OF_USER:
                raise TooMany("you have so many pages open that this one cannot be kept up to date")
            self._of_users[login] += 1

    def _end(self, login: str) -> None:
        with self._counting:
            self._of_users[login] -= 1
            if not self._of_users[login]:
                del self._of_users[login]

    def close(self) -> None:
        """End all streams, and begin none from here on."""
        self._closed = True
        for each in self._open:
            each.set()

    async def _events(self, look: Callable[[], PageParts], allowed: Callable[[], bool]) -> AsyncIterator[str]:
        ended = asyncio.Event()
        self._open.add(ended)
        try:
            loop = asyncio.get_running_loop()
            before = PageParts({})
            assured = loop.time()
            while not self._closed:
                try:
                    if loop.time() - assured >= _ASSURE_SECONDS:
                        assured = loop.time()
                        yield ": \n\n"
                        if not await self._in_thread(allowed):
                            raise NotFound
                    sight = await self._in_thread(look)
                    if message := _difference(before, sight):
                        yield message
                    before = sight
                except NotFound:
                    yield "event: reload\ndata:\n\n"
                    return
                except SQLAlchemyError as error:
                    # The page stays as it is; the next look may succeed.
                    logger.warning("an open page cannot be kept up to date: %s", type(error).__name__)
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), self._look_seconds)
        finally:
            self._open.discard(ended)

    async def _in_thread(self, ask: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(ask, limiter=self._threads)


class _EventStream(StreamingResponse):
    """Tells when it has ended, whether or not it ever began to be sent."""

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(events, headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _difference(before: PageParts, now: PageParts) -> str:
    """The event that makes of one sight the other; empty where they are the same."""
    parts = {id: html for id, html in now.parts.items() if before.parts.get(id) != html}
    lists = {id: items for id, items in now.lists.items() if before.lists.get(id) != items}
    if not parts and not lists:
        return ""
    return f"event: change\ndata: {json.dumps({'parts': parts, 'lists': lists})}\n\n"
