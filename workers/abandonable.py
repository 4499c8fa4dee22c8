"""A call that cannot be interrupted, made in a thread of its own, which is left to itself where the work must stop.

For what changes nothing, as signing in to a cloud. The time-outs of the call itself end the thread that is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from publisher.telemetry.logs import with_context

_LOOK_SECONDS = 0.1
_LEFT_MAX = 32
"""Threads that may be left at a time, in a worker: callers who publish and cancel must not make ever more of them."""

_left = threading.BoundedSemaphore(_LEFT_MAX)
Result = TypeVar("Result")


def aside(call: Callable[[], Result], *, check: Callable[[], None], discard: Callable[[Result], None]) -> Result:
    """What `call` returns or raises. `check` stops the waiting by raising; a result that comes later is discarded."""
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=with_context(work), name="aside", daemon=True).start()
    while not wait([outcome], timeout=_LOOK_SECONDS).done:
        try:
            check()
        except BaseException:
            _leave(outcome, discard)
            raise
    return outcome.result()


def _leave(outcome: Future[Result], discard: Callable[[Result], None]) -> None:
    places = _left
    counted = places.acquire(blocking=False)

    def ended(done: Future[Result]) -> None:
        if counted:
            places.release()
        if done.exception() is None:
            discard(done.result())

    if not counted:
        wait([outcome])
    outcome.add_done_callback(ended)
