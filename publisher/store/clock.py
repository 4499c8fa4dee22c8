"""The clock of an SQLite database: every process that opens the file reads the time itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_CATCH_UP = 0.1
"""Seconds a second: at most so fast does the clock approach the time of day."""


def _since_boot() -> float:
    """Seconds that nobody sets; those that the machine sleeps count, where the system tells them."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class SteadyClock:
    """Seconds since the epoch that never jump and never run backwards.

    It follows the time of day. Where somebody sets that, it gains or loses a tenth of each second until both agree
    again. So a clock that is set neither ends a lease or a deadline early, nor keeps anything waiting for hours.
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
