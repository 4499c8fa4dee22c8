"""The clock of an SQLite database. Each process that opens the file reads the time itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_CATCH_UP = 0.1
"""How fast the clock approaches the time of day at most, in seconds per second."""


def _since_boot() -> float:
    """Return seconds from a clock that nobody can set. Includes sleep of the machine if the system supports it."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class SteadyClock:
    """Seconds since the epoch that never jump and never run backwards.

    The clock follows the time of day. If someone sets that, this clock gains or loses a tenth of each second until both
    agree again. So setting the clock ends no lease or deadline early, and keeps nothing waiting for hours.
    """

    def __init__(self, time_of_day: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._time_of_day = time_of_day
        self._steady = steady
        self._lock = threading.Lock()
        self._now, self._read = time_of_day(), steady()

    def now(self) -> float:
        with self._lock:
            read = self._steady()
            passed, self._read = read - self._read, read
            self._now += passed
            most = passed * _CATCH_UP
            self._now += max(-most, min(most, self._time_of_day() - self._now))
            return self._now
