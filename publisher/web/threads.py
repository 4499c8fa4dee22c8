"""Threads that make calls for event loops, for what may wait: the store, the disk, a password hash."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import typing
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import TimeoutError as StoreTimeout

_P = ParamSpec("_P")
_T = TypeVar("_T")

_READERS, _READERS_MOST = 4, 40
"""Number of threads that read, and of those if all of them wait: for a password's turn, or for a slow database. More
threads than cores compete for the interpreter, which costs a fifth of a read."""
_WRITERS = 16
"""Number of threads that write to the store. Fewer than the store has connections, so that readers have some, too."""
_WAITING_MAX = 500
_WAIT_SECONDS = 5.0
_BUSY_SECONDS = 0.01
"""If no thread has taken a call by then, all are taken to be waiting."""


class _Call:
    """A call that a thread is to make, and the future in the event loop that gets its result."""

    __slots__ = ("context", "function", "future", "loop", "taken")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.context = contextvars.copy_context()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.taken = False

    def make(self) -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = self.context.run(self.function)
        except StopIteration as error:  # a future does not take it
            failure = RuntimeError(f"{self.function} raised StopIteration")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        try:
            self.loop.call_soon_threadsafe(self._deliver, result, failure)
        except RuntimeError:
            """The event loop has ended. Nobody waits for the result."""
        finally:
            # An error refers to this frame, and the call to the error. Without the cycle, both end at once.
            del self, result, failure

    def _deliver(self, result: Any, failure: BaseException | None) -> None:
        if self.future.done():
            return
        if failure is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(failure)


class Threads:
    """Threads that event loops share. A call costs a fraction of what anyio's threads cost."""

    def __init__(
        self,
        name: str,
        usual: int,
        most: int | None = None,
        *,
        waiting_max: int | None = None,
        wait_seconds: float | None = None,
    ) -> None:
        """Set the usual number of threads, and the number while those are waiting for something (`most`).

        `waiting_max` calls may wait for a thread, for `wait_seconds`; None: no limit.
        """
        self._name = name
        self._usual = usual
        self._most = most or usual
        self._waiting_max = waiting_max
        self._wait_seconds = wait_seconds
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished = 0

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call the function in a thread, in the context of the caller, and return its result.

        Raises SQLAlchemy's `TimeoutError` if too many calls wait for a thread, or this one has waited too long; the
        function has not been called then.
        """
        call = _Call(partial(function, *args, **kwargs))
        with self._lock:
            waiting = self._unfinished - self._most
            if self._waiting_max is not None and waiting >= self._waiting_max:
                raise StoreTimeout("too many wait for a thread")
            self._unfinished += 1
            is_new_wanted = self._started < min(self._unfinished, self._usual)
            self._started += is_new_wanted
            may_need_more = self._usual < self._most and self._unfinished > self._usual
        self._calls.put(call)
        if is_new_wanted:
            self._start()
        timers: list[asyncio.TimerHandle] = []
        if may_need_more:
            timers.append(call.loop.call_later(_BUSY_SECONDS, self._add_for, call))
        if waiting >= 0 and self._wait_seconds is not None:
            timers.append(call.loop.call_later(self._wait_seconds, self._give_up, call))
        try:
            return typing.cast(_T, await call.future)
        finally:
            for timer in timers:
                timer.cancel()
            del call, timers  # likewise

    def _start(self) -> None:
        threading.Thread(target=self._work, name=f"{self._name} {self._started}", daemon=True).start()

    def _add_for(self, call: _Call) -> None:
        """Add a thread if none has taken this call."""
        with self._lock:
            if call.taken or self._started >= self._most:
                return
            self._started += 1
        self._start()

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if self._take(call):
                call.make()
                self._end()
            del call
            with self._lock:
                if self._started > self._usual and self._calls.empty():
                    self._started -= 1
                    return

    def _give_up(self, call: _Call) -> None:
        if self._take(call):
            self._end()
            if not call.future.done():
                call.future.set_exception(StoreTimeout("no thread was free for too long"))

    def _end(self) -> None:
        with self._lock:
            self._unfinished -= 1

    def _take(self, call: _Call) -> bool:
        """Take the call, unless it is taken already: by a thread, or because it has waited too long."""
        with self._lock:
            taken, call.taken = call.taken, True
        return not taken


readers = Threads("reader", _READERS, _READERS_MOST)
writers = Threads("writer", _WRITERS, waiting_max=_WAITING_MAX, wait_seconds=_WAIT_SECONDS)
"""The threads that write to the store. Readers go on while another process locks it."""
