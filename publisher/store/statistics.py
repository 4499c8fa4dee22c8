"""Numbers about all tickets, for operators: the console, the metrics and the terminal show the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from publisher.core.ticket import State
from publisher.store.engine import db_now, reading
from publisher.store.tables import notifications, sightings, tickets


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for a worker."""

    depth: int
    """Tickets that are queued, whether they may be claimed now or are to be tried again later."""
    oldest_seconds: float
    """How long the oldest of those that may be claimed now has waited; 0 where none does."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was published to one platform in a time."""

    platform: str
    images: int
    bytes: int
    seconds: float
    """All their uploads together: from the last claim of each until it was published."""


@dataclass(frozen=True, slots=True)
class NotificationBacklog:
    """What is to be told to those who asked to be told."""

    waiting: int
    failed: int
    """Given up."""
    oldest_seconds: float
    """How long the oldest of those that wait has; 0 where none does."""


class Statistics:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def counts(self) -> dict[tuple[str, State], int]:
        """Tickets by platform and state; combinations that there are none of are left out."""
        query = select(tickets.c.platform, tickets.c.state, func.count()).group_by(tickets.c.platform, tickets.c.state)
        with reading(self._engine) as connection:
            return {(platform, State(state)): count for platform, state, count in connection.execute(query)}

    def queue(self) -> Queue:
        """How much waits, and for how long."""
        waiting = tickets.c.state == State.QUEUED
        since = func.max(db_now() - func.coalesce(func.nullif(tickets.c.not_before, 0.0), tickets.c.accepted))
        with reading(self._engine) as connection:
            depth = connection.execute(select(func.count()).where(waiting)).scalar_one()
            oldest = connection.execute(select(since).where(waiting, tickets.c.not_before <= db_now())).scalar()
        return Queue(depth, max(0.0, oldest or 0.0))

    def failures(self, seconds: float) -> dict[str, int]:
        """Tickets that failed in the last `seconds`, by their reason (`publisher.core.errors.Reason`)."""
        reason = func.coalesce(tickets.c.reason, "internal")
        query = (
            select(reason, func.count())
            .where(tickets.c.finished >= db_now() - seconds, tickets.c.state == State.FAILED)
            .group_by(reason)
        )
        with reading(self._engine) as connection:
            return {str(row[0]): int(row[1]) for row in connection.execute(query)}

    def throughput(self, seconds: float) -> list[Throughput]:
        """What was published in the last `seconds`, by platform."""
        took = func.sum(tickets.c.finished - func.coalesce(tickets.c.started, tickets.c.finished))
        query = (
            select(tickets.c.platform, func.count(), func.sum(tickets.c.total), took)
            .where(tickets.c.finished >= db_now() - seconds, tickets.c.state == State.PUBLISHED)
            .group_by(tickets.c.platform)
            .order_by(tickets.c.platform)
        )
        with reading(self._engine) as connection:
            return [
                Throughput(platform, count, int(size), took)
                for platform, count, size, took in connection.execute(query)
            ]

    def notifications(self) -> NotificationBacklog:
        by_state = select(notifications.c.state, func.count(), func.min(notifications.c.created))
        with reading(self._engine) as connection:
            rows = connection.execute(by_state.group_by(notifications.c.state)).all()
            now = connection.execute(select(db_now())).scalar_one()
        found = {state: (count, first) for state, count, first in rows}
        waiting, first = found.get("waiting", (0, now))
        return NotificationBacklog(waiting, found.get("failed", (0, now))[0], max(0.0, now - first))

    def orphans(self) -> int:
        """Objects in clouds that nobody needs, as the sweeper last saw them."""
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(sightings)).scalar_one()
