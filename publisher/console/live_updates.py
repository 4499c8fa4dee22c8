"""Keep open pages up to date with the store, by server-sent events.

For each open page, the store is read once a second, so that changes by any process are found. The page gets the
elements that have changed, rendered by the same templates as the page itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from publisher.console.rendering import PageParts
from publisher.core.errors import NotFound, TooMany

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_AT_ONCE = 4
"""Reads of the store at a time, so that new pages do not wait behind open ones."""
_OF_USER = 20
"""Pages that one user may have open at a time, so that others can have some, too."""
_ASSURE_SECONDS = 15.0
"""How often the stream checks that the user is still signed in with the same rights, and sends something so that
proxies do not close it."""


class Streams:
    """The streams of one intake process. They run in its event loop; `response` may be called from any thread."""

    def __init__(self, most: int, look_seconds: float = _LOOK_SECONDS) -> None:
        self._most = most
        self._look_seconds = look_seconds
        self._open: set[asyncio.Event] = set()
        self._of_users: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._closed = False
        self._threads = CapacityLimiter(_AT_ONCE)

    def __len__(self) -> int:
        """Return how many streams are open."""
        return len(self._open)

    def response(self, look: Callable[[], PageParts], allowed: Callable[[], bool], login: str) -> StreamingResponse:
        """Open a stream for a page of the user `login`. Raises `TooMany`.

        `look` and `allowed` read the store, and run in a thread. If `look` raises `NotFound`, or `allowed` returns
        False, the page reloads.
        """
        self._begin(login)
        return _EventStream(self._events(look, allowed), lambda: self._end(login))

    def _begin(self, login: str) -> None:
        with self._counting:
            if self._of_users.total() >= self._most:
                raise TooMany("too many pages are open, so this one is not updated")
            if self._of_users[login] >= _OF_USER:
                raise TooMany("you have too many pages open, so this one is not updated")
            self._of_users[login] += 1

    def _end(self, login: str) -> None:
        with self._counting:
            self._of_users[login] -= 1
            if not self._of_users[login]:
                del self._of_users[login]

    def close(self) -> None:
        """End all streams, and open no new ones."""
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
                    now = await self._in_thread(look)
                    if message := _difference(before, now):
                        yield message
                    before = now
                except NotFound:
                    yield "event: reload\ndata:\n\n"
                    return
                except SQLAlchemyError as error:
                    # The page stays as it is; the next read may succeed.
                    logger.warning("an open page cannot be updated: %s", type(error).__name__)
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), self._look_seconds)
        finally:
            self._open.discard(ended)

    async def _in_thread(self, ask: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(ask, limiter=self._threads)


class _EventStream(StreamingResponse):
    """A response that reports its end, even if it never began to be sent."""

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(events, headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _difference(before: PageParts, now: PageParts) -> str:
    """Return the event that turns one state of the page into the next; empty if they are the same."""
    parts = {id: html for id, html in now.parts.items() if before.parts.get(id) != html}
    lists = {id: items for id, items in now.lists.items() if before.lists.get(id) != items}
    if not parts and not lists:
        return ""
    return f"event: change\ndata: {json.dumps({'parts': parts, 'lists': lists})}\n\n"
