"""Wait for the results of checks. One query, ten times a second, serves all who wait; while nobody waits, none is made.

Whoever waits holds no thread and no connection to the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, ClassVar

import anyio.to_thread
from anyio import CapacityLimiter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from publisher.core.cloud_check import CHECK_SECONDS_MAX, CheckResult
from publisher.core.errors import NotChecked
from publisher.services.wakeups import Wakeups
from publisher.store import Store
from publisher.web.threads import waking, writers

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1


class AnsweredLater(Response):
    """An answer that takes long, and that no thread waits for: a coroutine makes it in the event loop."""

    def __init__(self, answer: Callable[[], Coroutine[Any, Any, Response]]) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer()
        await response(scope, receive, send)


class CheckResults:
    """The callers of one intake process who wait for the results of checks. Runs in the event loop only."""

    seconds: ClassVar[float] = CHECK_SECONDS_MAX

    def __init__(self, store: Store, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups
        self._waiting: dict[int, asyncio.Future[CheckResult | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)
        self._closed = False

    async def result(self, check_id: int) -> CheckResult:
        """Wake a worker for a check, and return what it found. Raises `NotChecked` if no worker answers in time.

        Nothing is left of a check that was not made: its secrets are deleted with it.
        """
        try:
            if not await waking.do((self._wakeups.check(check_id), copy_context())):
                raise NotChecked("no worker can be asked to check it: the message broker cannot be reached")
            found = await self._awaited(check_id)
        except BaseException:
            await self._abandon(check_id)
            raise
        if found is None:
            await self._abandon(check_id)
            raise NotChecked(
                f"no worker has answered within {self.seconds:.0f} s: none runs, all are busy, or the one that began"
                " the check was stopped; try again later"
            )
        return found

    def close(self) -> None:
        """Answer all who wait, and hold no further request."""
        self._closed = True
        for each in self._waiting.values():
            if not each.done():
                each.set_result(None)

    async def _awaited(self, check_id: int) -> CheckResult | None:
        if self._closed:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[CheckResult | None] = loop.create_future()
        self._waiting[check_id] = future
        if self._task is None:
            self._task = loop.create_task(self._watch())
        try:
            return await asyncio.wait_for(future, self.seconds)
        except TimeoutError:
            return None
        finally:
            del self._waiting[check_id]

    async def _abandon(self, check_id: int) -> None:
        try:
            await writers.run(self._store.checks.abandon, check_id)
        except SQLAlchemyError as error:
            logger.warning("check %d cannot be deleted: %s", check_id, type(error).__name__)

    async def _watch(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_PAUSE_SECONDS)
                await self._look()
        finally:
            self._task = None

    async def _look(self) -> None:
        ids = list(self._waiting)
        try:
            found = await anyio.to_thread.run_sync(self._store.checks.results, ids, limiter=self._thread)
        except Exception as error:  # whatever it is: the next query may succeed
            logger.error("the results of checks cannot be read: %s", type(error).__name__)
            return
        for id, result in found.items():
            future = self._waiting.get(id)
            if future is not None and not future.done():
                future.set_result(result)
