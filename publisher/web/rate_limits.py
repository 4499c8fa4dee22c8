"""How often one may ask: sign-ins that fail, and requests. Counted in memory, by each intake process for itself."""

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
from publisher.store.audit import UNKNOWN, Actor, Audit

_LOGIN_MAX = 255
_WINDOW_SECONDS = 60
_AVERAGE_SECONDS = 10
"""So long a burst may last, of all that is allowed for that time."""


class SignIns:
    """Failed sign-ins, by whatever door: of a login from an address, and of any login from that address.

    A login is never limited for all addresses: whoever does not know its password could lock its user out.
    """

    def __init__(
        self, audit: Audit, *, login_failures: int, address_failures: int, window_seconds: int = _WINDOW_SECONDS
    ) -> None:
        """A limit of 0 is none."""
        self._audit = audit
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._login = _item(login_failures, window_seconds, "login")
        self._address = _item(address_failures, window_seconds, "address")

    def check(self, login: str, address: str) -> None:
        """Before a password is hashed. Raises `TooMany`, which tells when the next try is worth while."""
        self.check_login(login, address)
        self._check(self._address, network_of(address))

    def check_login(self, login: str, address: str) -> None:
        """The same, but for what others have tried from that address."""
        self._check(self._login, _shortened(login), network_of(address))

    def failed(self, login: str, address: str, *, door: str = "api") -> None:
        """Count a wrong password. The last one that is allowed is written to the audit log."""
        self.note(self.count_failure(login, address), login, address, door=door)

    def count_failure(self, login: str, address: str) -> list[str]:
        """As `failed`, but only in memory: returns what is to be noted."""
        login, network = _shortened(login), network_of(address)
        return self._count(self._login, login, network) + self._count(self._address, network)

    def count_refusal(self, login: str, address: str) -> list[str]:
        """A password that was not looked at counts for its login, too: else whoever keeps all places taken could tell a
        remembered one by its being let in, as often as he likes."""
        return self._count(self._login, _shortened(login), network_of(address))

    def note(self, words: list[str], login: str, address: str, *, door: str) -> None:
        """Write to the audit log what was counted."""
        for each in words:
            self._audit.add(Actor(UNKNOWN, door, address or None), "sign_in.limited", user_uri(_shortened(login)), each)

    def succeeded(self, login: str, address: str) -> None:
        """Forget the failures of a login whose password was known in the end."""
        if self._login is not None:
            self._limiter.clear(self._login, _shortened(login), network_of(address))

    def _count(self, item: RateLimitItemPerSecond | None, *who: str) -> list[str]:
        if item is None or not self._limiter.hit(item, *who) or self._limiter.test(item, *who):
            return []
        of = "this login" if item is self._login else "all logins"
        return [f"{item.amount} failures of {of} from {who[-1]}"]

    def _check(self, item: RateLimitItemPerSecond | None, *who: str) -> None:
        if item is not None and not self._limiter.test(item, *who):
            ends = self._limiter.get_window_stats(item, *who).reset_time
            raise TooMany("too many sign-ins have failed; wait, then try again", retry_after_seconds=_until(ends))


class Requests:
    """Requests of each of those who ask."""

    def __init__(self, per_second: float) -> None:
        """On the average of ten seconds. 0 is no limit."""
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._item = _item(math.ceil(per_second * _AVERAGE_SECONDS), _AVERAGE_SECONDS, "requests")

    def count(self, who: str) -> None:
        """Raises `TooMany`. `who` is a login or an address."""
        if self._item is None:
            return
        who = network_of(who)
        if not self._limiter.hit(self._item, who):
            ends = self._limiter.get_window_stats(self._item, who).reset_time
            raise TooMany("more requests than are allowed; wait, then go on", retry_after_seconds=_until(ends))


@dataclass(frozen=True, slots=True)
class Throttle:
    """All limits of an intake process. The console signs in by the same ones as the API."""

    sign_ins: SignIns
    users: Requests
    """By login."""
    addresses: Requests
    """By address, or network of addresses."""

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
    """What somebody tries may be anything: as the database can keep it."""
    return login[:_LOGIN_MAX].replace("\0", "")


@lru_cache(4096)
def network_of(address: str) -> str:
    """What counts as one address: of IPv6, where everybody has as many as he likes, the network of 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address  # of a Unix socket: all its callers are one
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)
    return address


def _item(amount: int, seconds: int, kind: str) -> RateLimitItemPerSecond | None:
    return RateLimitItemPerSecond(amount, seconds, namespace=kind) if amount > 0 else None


def _until(moment: float) -> int:
    """Whole seconds, for `Retry-After`."""
    return max(1, math.ceil(moment - time.time()))
