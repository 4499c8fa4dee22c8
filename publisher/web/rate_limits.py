"""Limit failed sign-ins and requests. Each intake process counts for itself, in memory."""

from __future__ import annotations

import ipaddress
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from publisher.core.errors import TooMany
from publisher.core.settings import Settings
from publisher.core.uris import user_uri
from publisher.store import UNKNOWN, Actor, Audit

_LOGIN_MAX = 255
_WINDOW_SECONDS = 60
_AVERAGE_SECONDS = 10
"""Length of the window: all requests that it allows may come in one burst."""


class SignIns:
    """Limits failed sign-ins, of one login from one address and of all logins from one address.

    A login is never limited for all addresses, because anybody could then lock its user out.
    """

    def __init__(
        self, audit: Audit, *, login_failures: int, address_failures: int, window_seconds: int = _WINDOW_SECONDS
    ) -> None:
        """Set the numbers of failures that are allowed in a window; 0: no limit."""
        self._audit = audit
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._login = _item(login_failures, window_seconds, "login")
        self._address = _item(address_failures, window_seconds, "address")
        self._window_seconds = window_seconds
        self._none_from = 0.0
        """From this time on, no failure counts, unless another one comes. In seconds since the epoch, as the limiter's
        windows."""

    def check(self, login: str, address: str) -> None:
        """Check that a password may be tried, before it is hashed. Raises `TooMany` with the time until then."""
        self.check_login(login, address)
        self._check(self._address, network_of(address))

    def check_login(self, login: str, address: str) -> None:
        """Check only the failures of this login from this address, not those of other logins. Raises `TooMany`."""
        if time.time() >= self._none_from:
            return
        self._check(self._login, _shortened(login), network_of(address))

    def failed(self, login: str, address: str, *, door: str = "api") -> None:
        """Count a wrong password. The last allowed one is written to the audit log."""
        self.note(self.count_failure(login, address), login, address, door=door)

    def count_failure(self, login: str, address: str) -> list[str]:
        """Count a wrong password in memory only. Returns the words for `note`."""
        login, network = _shortened(login), network_of(address)
        return self._count(self._login, login, network) + self._count(self._address, network)

    def count_refusal(self, login: str, address: str) -> list[str]:
        """Count a password that was refused unseen, for its login only. Returns the words for `note`.

        Without this, an attacker who keeps all places taken could find a remembered password: only that one gets in.
        """
        return self._count(self._login, _shortened(login), network_of(address))

    def note(self, words: list[str], login: str, address: str, *, door: str) -> None:
        """Write the words of a count to the audit log."""
        for each in words:
            self._audit.add(Actor(UNKNOWN, door, address or None), "sign_in.limited", user_uri(_shortened(login)), each)

    def succeeded(self, login: str, address: str) -> None:
        """Forget the failures of a login after the right password."""
        if self._login is not None:
            self._limiter.clear(self._login, _shortened(login), network_of(address))

    def _count(self, item: RateLimitItemPerSecond | None, *who: str) -> list[str]:
        self._none_from = max(self._none_from, time.time() + self._window_seconds)
        if item is None or not self._limiter.hit(item, *who) or self._limiter.test(item, *who):
            return []
        of = "this login" if item is self._login else "all logins"
        return [f"{item.amount} failures of {of} from {who[-1]}"]

    def _check(self, item: RateLimitItemPerSecond | None, *who: str) -> None:
        if item is not None and not self._limiter.test(item, *who):
            ends = self._limiter.get_window_stats(item, *who).reset_time
            raise TooMany("too many sign-ins have failed; wait, then try again", retry_after_seconds=_until(ends))


class Requests:
    """Limits the requests of each user or address."""

    def __init__(self, per_second: float) -> None:
        """Set the allowed rate, averaged over ten seconds; 0: no limit."""
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._item = _item(math.ceil(per_second * _AVERAGE_SECONDS), _AVERAGE_SECONDS, "requests")

    def count(self, who: str) -> None:
        """Count a request of `who`, a login or an address. Raises `TooMany`."""
        if self._item is None:
            return
        who = network_of(who)
        if not self._limiter.hit(self._item, who):
            ends = self._limiter.get_window_stats(self._item, who).reset_time
            raise TooMany("too many requests; wait, then try again", retry_after_seconds=_until(ends))


@dataclass(frozen=True, slots=True)
class Throttle:
    """All limits of an intake process. The API and the console share those of sign-ins."""

    sign_ins: SignIns
    users: Requests
    """Counted by login."""
    addresses: Requests
    """Counted by address or network."""

    @classmethod
    def from_settings(cls, settings: Settings, audit: Audit) -> Self:
        sign_ins = SignIns(
            audit,
            login_failures=settings.sign_in_failures_max,
            address_failures=settings.address_sign_in_failures_max,
        )
        return cls(
            sign_ins, Requests(settings.user_requests_per_second), Requests(settings.address_requests_per_second)
        )


def _shortened(login: str) -> str:
    """Make a login of any content fit for the database."""
    return login[:_LOGIN_MAX].replace("\0", "")


@lru_cache(4096)
def network_of(address: str) -> str:
    """Return what counts as one address: in IPv6, where everybody has many addresses, the /64 network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address  # a Unix socket, whose callers count as one
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)
    return address


def _item(amount: int, seconds: int, kind: str) -> RateLimitItemPerSecond | None:
    return RateLimitItemPerSecond(amount, seconds, namespace=kind) if amount > 0 else None


def _until(moment: float) -> int:
    """Return the whole seconds until a moment, at least 1, for `Retry-After`."""
    return max(1, math.ceil(moment - time.time()))
