"""Hash passwords in a few threads of their own. A limited number of callers wait for their turn.

If there is no room, a caller is refused at once, however many passwords are being guessed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from limits.storage import MemoryStorage

from publisher.core.errors import TooMany

_THREADS = 2
"""Each verification takes 64 MiB and a core for about 50 ms (argon2id), so more at a time would slow down the rest."""
_WAITING_MAX = 12
"""Each waiting caller holds one of the forty threads that answer requests."""
_REMEMBERED_SECONDS = 60
_NICENESS = 10


class AllPlacesTaken(TooMany):
    """Too many sign-ins at a time; wait, then try again."""

    retry_after_seconds = 5


@dataclass(slots=True, eq=False)
class _Turn:
    network: str
    verify: Callable[[], bool]
    number: int
    answer: Future[bool]


class Hashing:
    """Decides whose password is hashed next.

    The turn goes to the network with the fewest recent failures and waiting callers, then to the first caller.
    So a user with the right password gets in while others guess, from however many networks.
    """

    def __init__(self, threads: int = _THREADS, waiting_max: int = _WAITING_MAX) -> None:
        self._threads = threads
        self._waiting_max = waiting_max
        self._waiting: list[_Turn] = []
        self._running: list[_Turn] = []
        self._at_work = 0
        self._numbers = count()
        self._failures = MemoryStorage()
        self._lock = threading.Lock()

    def check_room(self, network: str) -> None:
        """Check that one more caller from this network may wait. Raises `AllPlacesTaken`."""
        with self._lock:
            self._check_room(network)

    def verify(self, network: str, verify: Callable[[], bool]) -> bool:
        """Call `verify`, which hashes a password, when its turn comes, and return its result.

        Raises `AllPlacesTaken` if too many callers wait, or if later callers with precedence take its place.
        """
        turn = _Turn(network, verify, next(self._numbers), Future())
        with self._lock:
            self._check_room(network)
            if self._is_full():
                last = max(self._waiting, key=self._rank)
                self._waiting.remove(last)
                last.answer.set_exception(AllPlacesTaken())
            self._waiting.append(turn)
            if self._at_work < self._threads:
                self._at_work += 1
                threading.Thread(target=self._work, name="hashing", daemon=True).start()
        return turn.answer.result()

    def _check_room(self, network: str) -> None:
        if self._is_full() and self._burden(network) >= max(self._burden(each.network) - 1 for each in self._waiting):
            raise AllPlacesTaken()

    def _is_full(self) -> bool:
        # A turn that no thread has begun yet counts, too.
        return len(self._waiting) + len(self._running) >= self._threads + self._waiting_max

    def _rank(self, turn: _Turn) -> tuple[int, int]:
        return self._burden(turn.network), turn.number

    def _burden(self, network: str) -> int:
        present = sum(each.network == network for each in (*self._waiting, *self._running))
        return present + self._failures.get(network)

    def _work(self) -> None:
        _give_way()
        while turn := self._next():
            try:
                right = turn.verify()
            except BaseException as error:
                self._end(turn, failed=False)
                turn.answer.set_exception(error)
            else:
                self._end(turn, failed=not right)
                turn.answer.set_result(right)

    def _next(self) -> _Turn | None:
        """Return the next turn for this thread; None if nobody waits, so that the thread ends."""
        with self._lock:
            if not self._waiting:
                self._at_work -= 1
                return None
            turn = min(self._waiting, key=self._rank)
            self._waiting.remove(turn)
            self._running.append(turn)
            return turn

    def _end(self, turn: _Turn, *, failed: bool) -> None:
        with self._lock:
            self._running.remove(turn)
            if failed:
                self._failures.incr(turn.network, _REMEMBERED_SECONDS)


def _give_way() -> None:
    """Lower the priority of this thread, so that hashing slows down nothing else. Only Linux has them per thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
