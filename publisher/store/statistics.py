"""Figures about all tickets, for operators. The console, the metrics and the command line show the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from publisher.core.ticket import State
from publisher.store.database import db_now, notifications, reading, sightings, tickets


@dataclass(frozen=True, slots=True)
class Queue:
    """Tickets that wait for a worker."""

    depth: int
    """Queued tickets, whether they may be claimed now or will be retried later."""
    oldest_seconds: float
    """How long the oldest ticket that may be claimed now has waited; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was published to one platform in a period."""

    platform: str
    images: int
    bytes: int
    seconds: float
    """Total time of the uploads: each from its last claim until it was published."""


@dataclass(frozen=True, slots=True)
class NotificationBacklog:
    """Webhook notifications that are not delivered."""

    waiting: int
    failed: int
    """Notifications that were given up."""
    oldest_seconds: float
    """How long the oldest waiting notification has waited; 0 if there is none."""


class Statistics:
    """Figures about all tickets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def counts(self) -> dict[tuple[str, State], int]:
        """Count all tickets by platform and state. Combinations without tickets are left out.

        Reads an entry of an index for each ticket. `Publications.counts` stops counting early, for pages.
        """
        query = select(tickets.c.platform, tickets.c.state, func.count()).group_by(tickets.c.platform, tickets.c.state)
        with reading(self._engine) as connection:
            return {(platform, State(state)): count for platform, state, count in connection.execute(query)}

    def queue(self) -> Queue:
        """Return how many tickets wait, and for how long."""
        waiting = tickets.c.state == State.QUEUED
        since = func.max(db_now() - func.coalesce(func.nullif(tickets.c.not_before, 0.0), tickets.c.accepted))
        with reading(self._engine) as connection:
            depth = connection.execute(select(func.count()).where(waiting)).scalar_one()
            oldest = connection.execute(select(since).where(waiting, tickets.c.not_before <= db_now())).scalar()
        return Queue(depth, max(0.0, oldest or 0.0))

    def failures(self, seconds: float) -> dict[str, int]:
        """Count the tickets that failed in the last `seconds`, by reason (`publisher.core.errors.Reason`)."""
        reason = func.coalesce(tickets.c.reason, "internal")
        query = (
            select(reason, func.count())
            .where(tickets.c.finished >= db_now() - seconds, tickets.c.state == State.FAILED)
            .group_by(reason)
        )
        with reading(self._engine) as connection:
            return {str(row[0]): int(row[1]) for row in connection.execute(query)}

    def throughput(self, seconds: float) -> list[Throughput]:
        """Return what was published in the last `seconds`, by platform."""
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
        """Count the orphans in clouds, as the sweeper last saw them."""
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(sightings)).scalar_one()
