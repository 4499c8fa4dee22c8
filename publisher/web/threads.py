"""Threads that make calls for event loops, for what may wait: the store, the disk, a password hash."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import typing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from sqlalchemy.exc import TimeoutError as StoreTimeout

from publisher.core.asking import together

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")
_Outcome = tuple[Any, BaseException | None]
_Work = Callable[[Sequence[_Item]], Sequence[_Outcome]]
_OverlappingWork = Callable[[Sequence[_Item], Callable[[], None]], Sequence[_Outcome]]

_READERS, _READERS_MOST = 4, 40
"""Number of threads that read, and of those if all of them wait: for a password's turn, or for a slow database. More
threads than cores compete for the interpreter, which costs a fifth of a read."""
_WRITERS = 16
"""Number of threads that write to the store. Fewer than the store has connections, so that readers have some, too."""
_AT_MOST = 64
"""Maximum number of requests that are answered together: the first ones wait for the last ones."""
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

    def make(self, ended: Callable[[], None]) -> None:
        """Call the function, then `ended`, then deliver the result: whoever gets it may at once make the next call."""
        result: Any = None
        failure: BaseException | None = None
        try:
            result = self.context.run(self.function)
        except StopIteration as error:  # a future does not take it
            failure = RuntimeError(f"{self.function} raised StopIteration")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        ended()
        try:
            self.loop.call_soon_threadsafe(_deliver, [(self.future, result, failure)])
        except RuntimeError:
            """The event loop has ended. Nobody waits for the result."""
        finally:
            # An error refers to this frame, and the call to the error. Without the cycle, both end at once.
            del self, result, failure


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
                call.make(self._end)
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


class _Waiting(Generic[_Item]):
    """An item that waits for the thread, and the future in the event loop that gets its outcome."""

    __slots__ = ("future", "item", "loop", "taken")

    def __init__(self, item: _Item) -> None:
        self.item = item
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.taken = False


class Together(Generic[_Item]):
    """A thread that works together on all items that have come in while it worked on the previous ones.

    Nobody waits for company: an item that comes while the thread is idle is worked on at once, and alone. The more
    come, the more the thread takes at a time. Its results reach an event loop in one go, too.

    If `work` waits for something in the end, such as the disk, it can let a second thread begin with the next items.
    """

    def __init__(
        self,
        name: str,
        work: _Work[_Item] | _OverlappingWork[_Item],
        *,
        overlaps: bool = False,
        at_most: int | None = None,
        waiting_max: int | None = None,
        wait_seconds: float | None = None,
    ) -> None:
        """`work` gets at most so many items, and returns what each one results in, or the error to raise.

        If it `overlaps`, it also gets a function to call before it waits: then the second thread begins.

        `waiting_max` items may wait for the thread, for `wait_seconds`; None: no limit.
        """
        self._name = name
        self._work = work
        self._at_most = at_most
        self._waiting_max = waiting_max
        self._wait_seconds = wait_seconds
        self._waiting: SimpleQueue[_Waiting[_Item]] = SimpleQueue()
        self._lock = threading.Lock()
        self._overlaps = overlaps
        self._turn = threading.Lock()
        """Of the thread that takes items, and works on them until it waits."""
        self._started = False

    def __len__(self) -> int:
        """Return how many items wait for the thread."""
        return self._waiting.qsize()

    async def do(self, item: _Item) -> Any:
        """Return what `work` makes of the item, or raise its error.

        Raises SQLAlchemy's `TimeoutError` if too many items wait, or this one has waited too long; it is not worked on
        then.
        """
        if self._waiting_max is not None and self._waiting.qsize() >= self._waiting_max:
            raise StoreTimeout("too many wait for a thread")
        mine = _Waiting(item)
        self._waiting.put(mine)
        if not self._started:
            self._start()
        timer = None
        if self._wait_seconds is not None:
            timer = mine.loop.call_later(self._wait_seconds, self._give_up, mine)
        try:
            return await mine.future
        finally:
            if timer is not None:
                timer.cancel()
            del mine  # an error refers to this frame, and the future to the error

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        for _ in range(2 if self._overlaps else 1):
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            with ExitStack() as turn:
                turn.enter_context(self._turn)
                if batch := self._next():
                    self._work_on(batch, turn.close)
            del batch  # an idle thread keeps no request

    def _next(self) -> list[_Waiting[_Item]]:
        """Wait for an item, and take it with all others that wait, as many as are worked on at a time."""
        found = [self._waiting.get()]
        try:
            while self._at_most is None or len(found) < self._at_most:
                found.append(self._waiting.get_nowait())
        except Empty:
            pass
        with self._lock:
            batch = [each for each in found if not each.taken]
            for each in batch:
                each.taken = True
        return batch  # empty if all of them have waited too long

    def _work_on(self, batch: list[_Waiting[_Item]], before_waiting: Callable[[], None]) -> None:
        items = [each.item for each in batch]
        try:
            if self._overlaps:
                outcomes = typing.cast(_OverlappingWork[_Item], self._work)(items, before_waiting)
            else:
                outcomes = typing.cast(_Work[_Item], self._work)(items)
        except BaseException as error:
            outcomes = [(None, RuntimeError(f"the thread for several was stopped: {error!r}"))] * len(batch)
        ended: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = {}
        for each, (result, failure) in zip(batch, outcomes, strict=True):
            ended.setdefault(each.loop, []).append((each.future, result, failure))
        for loop, of_loop in ended.items():
            try:
                loop.call_soon_threadsafe(_deliver, of_loop)
            except RuntimeError:
                """The event loop has ended. Nobody waits for the results."""

    def _give_up(self, mine: _Waiting[_Item]) -> None:
        with self._lock:
            taken, mine.taken = mine.taken, True
        if not taken and not mine.future.done():
            mine.future.set_exception(StoreTimeout("no thread was free for too long"))


def _deliver(ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, result, failure in ended:
        if future.done():
            continue
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)


readers = Threads("reader", _READERS, _READERS_MOST)
writers = Threads("writer", _WRITERS, waiting_max=_WAITING_MAX, wait_seconds=_WAIT_SECONDS)
"""The threads that write to the store. Readers go on while another process locks it."""

asking_to_read = Together("reader for several", together, at_most=_AT_MOST)
asking_to_write = Together(
    "writer for several",
    together,
    overlaps=True,
    at_most=_AT_MOST,
    waiting_max=_WAITING_MAX,
    wait_seconds=_WAIT_SECONDS,
)
"""The threads that run functions that ask the store, for all requests that wait."""
waking = Together("waker", together)
"""The thread that wakes workers, after the answers are sent. While it waits for the broker, nobody else does."""
