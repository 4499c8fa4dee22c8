"""Work of several threads that one of them does for all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class TurnTimeout(Exception):
    """The work was not begun in time, and never will be."""


class Abandoned(Exception):
    """The thread that did the work was stopped before its end."""


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    """One thread's item. `news` is locked until the thread has to do something: lead, or take its outcome."""

    item: Item
    leads: bool = False
    news: threading.Lock = field(default_factory=threading.Lock)
    outcomes: Sequence[Result | Exception] = ()
    """The outcome, once there is one."""


class Batches(Generic[Item, Result]):
    """Lets one thread at a time do the work of all that wait.

    A thread that comes while nobody works begins at once, with its own item alone. Items that come meanwhile form the
    next batch, and the thread that has waited longest works on it. So nobody waits for company, and the more threads
    come, the larger the batches are. No additional thread is needed.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result | Exception]], *, at_most: int) -> None:
        """`work` returns the outcome of each item of a batch, of `at_most` items. An exception among the outcomes is
        raised in the thread of its item. If `work` itself raises one, each thread of the batch raises a copy of it."""
        self._work = work
        self._at_most = at_most
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._busy = False

    def __len__(self) -> int:
        """Return how many items wait for the next batch."""
        return len(self._waiting)

    def do(self, item: Item, *, wait_seconds: float) -> Result:
        """Have the work done, and return its result. Raises `TurnTimeout` if it is not begun within `wait_seconds`,
        and `Abandoned` if the thread that did it was stopped."""
        mine: _Entry[Item, Result] = _Entry(item)
        with self._lock:
            if self._busy:
                mine.news.acquire()
                self._waiting.append(mine)
            else:
                mine.leads = self._busy = True
        if not mine.leads:
            self._wait(mine, wait_seconds)
        if mine.leads:
            self._lead(mine)
        (outcome,) = mine.outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _wait(self, mine: _Entry[Item, Result], seconds: float) -> None:
        try:
            in_time = mine.news.acquire(timeout=max(0.0, seconds))
        except BaseException:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                elif mine.leads:
                    self._hand_over()
            raise
        if not in_time:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise TurnTimeout("others have been working for too long")
            mine.news.acquire()  # the work has begun, and has time limits of its own

    def _lead(self, mine: _Entry[Item, Result]) -> None:
        """Work on what waits, the own item first. Whatever happens then, no thread is left waiting."""
        batch = [mine]
        outcomes: Sequence[Result | Exception] = ()
        error: Exception = Abandoned("the thread that worked for several was stopped")
        try:
            with self._lock:
                while self._waiting and len(batch) < self._at_most:
                    batch.append(self._waiting.popleft())
            outcomes = self._work([each.item for each in batch])
        except Exception as raised:
            error = raised
        finally:
            with self._lock:
                self._hand_over()
            for index, each in enumerate(batch):
                # A copy, because each thread adds its traceback.
                each.outcomes = outcomes[index : index + 1] or (copy(error),)
                if each is not mine:
                    each.news.release()

    def _hand_over(self) -> None:
        """Let the thread that has waited longest lead."""
        self._busy = bool(self._waiting)
        if self._waiting:
            following = self._waiting.popleft()
            following.leads = True
            following.news.release()
