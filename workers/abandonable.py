"""Make a call that cannot be interrupted in its own thread, which is abandoned if the work must stop.

Use it for calls that change nothing, such as signing in to a cloud. The call's own time-outs end an abandoned thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from publisher.telemetry.logs import with_context

_LOOK_SECONDS, _LOOK_LATER_SECONDS = 0.1, 0.25
"""How long to wait between two checks: at first, and after some looks, because an upload takes minutes."""
_LOOKS_AT_FIRST = 10
_LEFT_MAX = 32
"""Threads of a worker that may be abandoned at a time, so that callers who publish and cancel cannot pile them up."""

_left = threading.BoundedSemaphore(_LEFT_MAX)
Result = TypeVar("Result")


def aside(call: Callable[[], Result], *, check: Callable[[], None], discard: Callable[[Result], None]) -> Result:
    """Return what `call` returns, or raise what it raises.

    `check` is called while waiting, and stops the wait by raising. `discard` then gets a result that comes later.
    """
    outcome: Future[Result] = Future()
    done = threading.Event()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            done.set()

    threading.Thread(target=with_context(work), name="aside", daemon=True).start()
    looks = 0
    while not done.wait(_LOOK_SECONDS if looks < _LOOKS_AT_FIRST else _LOOK_LATER_SECONDS):
        looks += 1
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
