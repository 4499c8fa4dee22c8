"""How often one may try to sign in."""

from __future__ import annotations

import math
import time
from typing import Protocol

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from publisher.core.errors import TooMany

_MINUTES = 5


class Attempts(Protocol):
    """What is asked before a password is looked at, and told once it was right."""

    def begin(self, login: str, address: str) -> None:
        """Raises `TooMany`, which tells how long to wait."""

    def succeeded(self, login: str, address: str) -> None: ...


class AttemptsHere:
    """Those at this intake process."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        # Who knows a login must not keep its owner out from elsewhere: for the login alone, the limit is far above what
        # people need.
        self._both = RateLimitItemPerMinute(10, _MINUTES, namespace="both")
        self._address = RateLimitItemPerMinute(50, _MINUTES, namespace="address")
        self._login = RateLimitItemPerMinute(200, _MINUTES, namespace="login")

    def begin(self, login: str, address: str) -> None:
        for item, names in self._limits(login, address):
            if not self._limiter.hit(item, *names):
                raise _too_many(self._limiter.get_window_stats(item, *names).reset_time - time.time())

    def succeeded(self, login: str, address: str) -> None:
        for item, names in self._limits(login, address):
            self._limiter.clear(item, *names)

    def _limits(self, login: str, address: str) -> list[tuple[RateLimitItem, tuple[str, ...]]]:
        return [(self._both, (login, address)), (self._address, (address,)), (self._login, (login,))]


def _too_many(seconds: float) -> TooMany:
    error = TooMany("there were too many attempts to sign in; wait a few minutes")
    error.retry_after_seconds = max(1, math.ceil(seconds))
    return error
