"""How much may go on, and wait, at a time: in all, for one user, for one cloud account.

A ticket that a worker has taken up keeps its place until its state says otherwise, even if that worker is gone: whoever
takes it over needs no other. Places go to the oldest ticket that waits and could be taken up.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, cast, func, literal, select, update

from publisher.core.errors import TooMany
from publisher.core.ticket import State
from publisher.store.engine import db_now
from publisher.store.tables import tickets

_COUNT_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """0 is no limit."""

    account_uploads: int = 0
    """Tickets that are being published to one cloud account."""
    user_uploads: int = 0
    """Tickets of one user that are being published."""
    queue: int = 0
    """Tickets that wait."""
    user_queue: int = 0
    """Tickets of one user that wait."""


_WAITS = (tickets.c.state == State.QUEUED, tickets.c.not_before <= db_now(), tickets.c.lease_until < db_now())
_GOES_ON = tickets.c.state == State.PUBLISHING


class UploadSlots:
    """Who may be taken up. To be asked in a transaction."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def take(self, connection: Connection, ticket_id: int, cloud_account: str, owner: str) -> bool:
        """Whether there is a place for a ticket that waits. Holds until the end of this transaction, which writes."""
        for column, value, most in self._shared(cloud_account, owner):
            _lock(connection, value)
            older = self._waiting(column, value).where(tickets.c.id < ticket_id).limit(most).subquery()
            before = connection.execute(select(func.count()).select_from(older)).scalar_one()
            if _going_on(connection, column, value) + before >= most:
                return False
        return True

    def next(self, connection: Connection, cloud_account: str, owner: str) -> list[int]:
        """The tickets that wait for the places that are free now with this account, and with this user."""
        found: set[int] = set()
        for column, value, most in self._shared(cloud_account, owner):
            free = most - _going_on(connection, column, value)
            if free > 0:
                query = self._waiting(column, value).order_by(tickets.c.id).limit(free)
                # One that is being changed is looked at by whoever does that; to wait for each other would be a knot.
                found |= set(connection.execute(query.with_for_update(skip_locked=True)).scalars())
        return sorted(found)

    def oldest(self, connection: Connection, count: int, *which: ColumnElement[bool]) -> list[int]:
        """The oldest tickets that wait and have room, whosever they are."""
        query = select(tickets.c.id).where(*_WAITS, *which)
        for column, most in (
            (tickets.c.cloud_account, self._limits.account_uploads),
            (tickets.c.owner, self._limits.user_uploads),
        ):
            if most:
                query = query.where(_has_room(column, most))
        return list(connection.execute(query.order_by(tickets.c.id).limit(count)).scalars())

    def wake_next(self, connection: Connection, cloud_account: str, owner: str) -> None:
        """Have the reconciler wake them at its next turn, should nobody else."""
        ids = self.next(connection, cloud_account, owner)
        if ids:
            connection.execute(update(tickets).where(tickets.c.id.in_(ids)).values(wake_at=db_now(), wakes=0))

    def _shared(self, cloud_account: str, owner: str) -> Iterator[tuple[Column[str], str, int]]:
        """What has a limit, always in the same order: so that no two transactions lock each other out."""
        if self._limits.account_uploads and cloud_account:
            yield tickets.c.cloud_account, cloud_account, self._limits.account_uploads
        if self._limits.user_uploads:
            yield tickets.c.owner, owner, self._limits.user_uploads

    def _waiting(self, column: Column[str], value: str) -> Any:
        """Those that wait for a place and, as far as other limits go, could have it."""
        query = select(tickets.c.id).where(column == value, *_WAITS)
        others = {"cloud_account": self._limits.account_uploads, "owner": self._limits.user_uploads}
        for name, most in others.items():
            if most and name != column.name:
                query = query.where(_has_room(tickets.c[name], most))
        return query


class QueueCapacity:
    """Whether more tickets are accepted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._counted = -math.inf

    def check(self, connection: Connection, owner: str) -> None:
        """Raises `TooMany` where so many tickets wait, of this user or in all, that no other is to be accepted."""
        limits = self._limits
        if _wait(connection, limits.user_queue, tickets.c.owner == owner):
            raise TooMany(f"{limits.user_queue} of your images wait to be published already; try again later")
        # To count a hundred thousand takes 20 ms: once a second does, for a limit that need not be met to the last.
        if time.monotonic() - self._counted > _COUNT_AGAIN_SECONDS:
            if _wait(connection, limits.queue):
                raise TooMany(f"{limits.queue} images wait to be published already; try again later")
            self._counted = time.monotonic()


def _wait(connection: Connection, at_least: int, *whose: ColumnElement[bool]) -> bool:
    """Whether so many tickets wait. Counted no further, and on an index."""
    query = select(tickets.c.id).where(tickets.c.state == State.QUEUED, *whose).limit(1).offset(at_least - 1)
    return at_least > 0 and connection.execute(query).first() is not None


def _going_on(connection: Connection, column: Column[str], value: str) -> int:
    return int(connection.execute(select(func.count()).where(column == value, _GOES_ON)).scalar_one())


def _has_room(column: Column[str], most: int) -> ColumnElement[bool]:
    full = select(column).where(_GOES_ON).group_by(column).having(func.count() >= most)
    return column.not_in(full)


def _lock(connection: Connection, value: str) -> None:
    """Until the end of the transaction nobody else gives a place away. SQLite lets one at a time write anyway."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(cast(literal(key), BigInteger))))
