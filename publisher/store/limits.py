"""Limits on concurrent uploads and on queued tickets: in total, for each user and for each cloud account.

A claimed ticket keeps its slot until its state changes, even if its worker is gone: a worker that takes it over needs
no new slot. A free slot goes to the oldest waiting ticket that can be claimed.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, cast, func, literal, select, update

from publisher.core.errors import TooMany
from publisher.core.ticket import State
from publisher.store.database import db_now, tickets

_COUNT_AGAIN_SECONDS = 1.0
_OWNERS_COUNTED = 1000
"""Maximum number of users whose tickets are counted in memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits; 0: unlimited."""

    account_uploads: int = 0
    """Tickets that are being published to one cloud account."""
    user_uploads: int = 0
    """Tickets of one user that are being published."""
    queue: int = 0
    """Queued tickets in total."""
    user_queue: int = 0
    """Queued tickets of one user."""


_WAITS = (tickets.c.state == State.QUEUED, tickets.c.not_before <= db_now(), tickets.c.lease_until < db_now())
_GOES_ON = tickets.c.state == State.PUBLISHING


class UploadSlots:
    """Decides which tickets may be claimed. Call its methods inside a transaction."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def reserve(self, connection: Connection, ticket_id: int, cloud_account: str, owner: str) -> bool:
        """Return whether a slot is free for a waiting ticket. Holds until the end of this transaction, which writes."""
        for column, value, most in self._shared(cloud_account, owner):
            lock(connection, value)
            older = self._waiting(column, value).where(tickets.c.id < ticket_id).limit(most).subquery()
            before = connection.execute(select(func.count()).select_from(older)).scalar_one()
            if _going_on(connection, column, value) + before >= most:
                return False
        return True

    def next(self, connection: Connection, cloud_account: str, owner: str) -> list[int]:
        """Return the tickets that wait for the free slots of this account and of this user."""
        found: set[int] = set()
        for column, value, most in self._shared(cloud_account, owner):
            free = most - _going_on(connection, column, value)
            if free > 0:
                query = self._waiting(column, value).order_by(tickets.c.id).limit(free)
                # Skip tickets that are being changed: whoever changes them checks them. Waiting here could deadlock.
                found |= set(connection.execute(query.with_for_update(skip_locked=True)).scalars())
        return sorted(found)

    def oldest(self, connection: Connection, count: int, *which: ColumnElement[bool]) -> list[int]:
        """Return the oldest waiting tickets that have a free slot, of any owner."""
        query = select(tickets.c.id).where(*_WAITS, *which)
        for column, most in (
            (tickets.c.cloud_account, self._limits.account_uploads),
            (tickets.c.owner, self._limits.user_uploads),
        ):
            if most:
                query = query.where(_has_free_slot(column, most))
        return list(connection.execute(query.order_by(tickets.c.id).limit(count)).scalars())

    def wake_next(self, connection: Connection, cloud_account: str, owner: str) -> list[int]:
        """Make the waiting tickets due, so that the reconciler wakes them on its next run if nobody else does.

        Returns them.
        """
        ids = self.next(connection, cloud_account, owner)
        if ids:
            connection.execute(update(tickets).where(tickets.c.id.in_(ids)).values(wake_at=db_now(), wakes=0))
        return ids

    def _shared(self, cloud_account: str, owner: str) -> Iterator[tuple[Column[str], str, int]]:
        """Yield what is limited, always in the same order so that two transactions cannot deadlock."""
        if self._limits.account_uploads and cloud_account:
            yield tickets.c.cloud_account, cloud_account, self._limits.account_uploads
        if self._limits.user_uploads:
            yield tickets.c.owner, owner, self._limits.user_uploads

    def _waiting(self, column: Column[str], value: str) -> Any:
        """Select the tickets that wait for a slot and that the other limits allow."""
        query = select(tickets.c.id).where(column == value, *_WAITS)
        others = {"cloud_account": self._limits.account_uploads, "owner": self._limits.user_uploads}
        for name, most in others.items():
            if most and name != column.name:
                query = query.where(_has_free_slot(tickets.c[name], most))
        return query


NoRoom = Callable[[Connection, str], TooMany | None]
"""Returns why there is no room for one more ticket of a user; None if there is."""


class QueueCapacity:
    """Decides whether more tickets are accepted. Several threads may use it.

    Counting a hundred thousand tickets takes 20 ms. So they are counted once a second, and again before one is refused.
    In between, the tickets of this process are added; those of other processes need not be noticed at once.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._all = _Count()
        self._by_owner: dict[str, _Count] = {}
        self._pending = Counter[str]()
        """How many tickets of each user are in transactions that have not ended. Counting does not find them yet."""

    @contextmanager
    def room(self) -> Iterator[NoRoom]:
        """Yield a function for one transaction, which must end before this does. If the function says that there is
        room for a ticket, the transaction must create it."""
        accepted = Counter[str]()

        def refusal(connection: Connection, owner: str) -> TooMany | None:
            with self._lock:
                if refused := self._refusal(connection, owner, began):
                    return refused
                accepted[owner] += 1
                self._pending[owner] += 1
            return None

        began = time.monotonic()
        try:
            yield refusal
        finally:
            with self._lock:
                self._pending -= accepted

    def _refusal(self, connection: Connection, owner: str, began: float) -> TooMany | None:
        """Return why a transaction that began then may not create a ticket. Otherwise, count that ticket."""
        if len(self._by_owner) > _OWNERS_COUNTED:
            self._by_owner.clear()
        limits, mine = self._limits, self._by_owner.setdefault(owner, _Count())

        def is_full(count: _Count, limit: int, owner: str | None) -> bool:
            kept_seconds = 0 if count.queued >= limit else _COUNT_AGAIN_SECONDS
            if limit and count.counted < began - kept_seconds:
                pending = self._pending.total() if owner is None else self._pending[owner]
                count.queued, count.counted = _queued(connection, limit, owner) + pending, began
            return 0 < limit <= count.queued

        if is_full(mine, limits.user_queue, owner):
            return TooMany(f"{limits.user_queue} of your images are waiting to be published; try again later")
        if is_full(self._all, limits.queue, None):
            return TooMany(f"{limits.queue} images are waiting to be published; try again later")
        mine.queued += 1
        self._all.queued += 1
        return None


@dataclass(slots=True)
class _Count:
    """A number of queued tickets, and when they were counted (by `time.monotonic`)."""

    queued: int = 0
    counted: float = -math.inf


def _queued(connection: Connection, at_most: int, owner: str | None) -> int:
    """Count queued tickets, of this owner or all, no further than to `at_most`, on an index."""
    found = select(tickets.c.id).where(tickets.c.state == State.QUEUED).limit(at_most)
    if owner is not None:
        found = found.where(tickets.c.owner == owner)
    return int(connection.execute(select(func.count()).select_from(found.subquery())).scalar_one())


def _going_on(connection: Connection, column: Column[str], value: str) -> int:
    return int(connection.execute(select(func.count()).where(column == value, _GOES_ON)).scalar_one())


def _has_free_slot(column: Column[str], most: int) -> ColumnElement[bool]:
    full = select(column).where(_GOES_ON).group_by(column).having(func.count() >= most)
    return column.not_in(full)


def lock(connection: Connection, value: str) -> None:
    """Keep others from giving slots away until the transaction ends. SQLite allows only one writer anyway."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(cast(literal(key), BigInteger))))
