"""Threads for what writes to the store. Whoever only reads has others, and goes on while another process holds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi.routing import APIRoute
from sqlalchemy.exc import TimeoutError as StoreTimeout

_THREADS = 16
"""Fewer than the store has connections: those who read have some, too."""
_WAITING_MAX = 500
_WAIT_SECONDS = 5.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_P = ParamSpec("_P")
_T = TypeVar("_T")

_threads: RunVar[CapacityLimiter] = RunVar("publisher_writers")


async def run_as_writer(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What the function returns, from one of the threads that write. Raises SQLAlchemy's `TimeoutError` where too many
    wait for one of them, or for too long; nothing has been done then."""
    try:
        threads = _threads.get()
    except LookupError:
        threads = CapacityLimiter(_THREADS)
        _threads.set(threads)
    if threads.statistics().tasks_waiting >= _WAITING_MAX:
        raise StoreTimeout("too many wait to write to the store")
    turn = object()
    try:
        with anyio.fail_after(_WAIT_SECONDS):
            await threads.acquire_on_behalf_of(turn)
    except TimeoutError:
        raise StoreTimeout("the store has not been written to for too long") from None
    try:
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=CapacityLimiter(1))
    finally:
        threads.release_on_behalf_of(turn)


class WriterRoute(APIRoute):
    """A route whose endpoint runs in one of those threads, where its method may change something."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if set(options.get("methods") or {"GET"}) - _SAFE and not iscoroutinefunction(endpoint):
            endpoint = _in_writers_thread(endpoint)
        super().__init__(path, endpoint, **options)


def _in_writers_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return await run_as_writer(endpoint, *args, **kwargs)

    return run
