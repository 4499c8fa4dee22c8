"""The state of the whole installation at one moment: what `publisher top` shows, and prints as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from publisher.cli.command import iso
from publisher.cli.watching import rate
from publisher.core.ticket import State, Ticket

if TYPE_CHECKING:
    from publisher.store import Store
    from publisher.store.fleet import WorkerStanding
    from publisher.store.statistics import Queue, Throughput

WINDOW_SECONDS = 3600.0
"""The last hour: the period over which throughput and failures are counted."""


@dataclass(frozen=True, slots=True)
class Working:
    """A worker, and the tickets that it holds."""

    standing: WorkerStanding
    alive: bool
    tickets: Sequence[Ticket]


@dataclass(frozen=True, slots=True)
class Snapshot:
    at: float
    workers: Sequence[Working]
    queue: Queue
    counts: Mapping[tuple[str, State], int]
    """Tickets by platform and state."""
    throughput: Sequence[Throughput]
    """Throughput in the last `WINDOW_SECONDS`. `failures` counts those of the same period, by reason."""
    failures: Mapping[str, int]

    @property
    def platforms(self) -> list[str]:
        return sorted({platform for platform, _ in self.counts})

    def total(self, *states: State) -> int:
        return sum(count for (_, state), count in self.counts.items() if state in states)

    @property
    def abandoned(self) -> int:
        """Tickets that were begun but that no worker holds. The next free worker takes them over."""
        held = sum(len(each.tickets) for each in self.workers)
        return max(0, self.total(State.PUBLISHING, State.CANCELLING) - held)


def take_snapshot(store: Store, silent_seconds: float) -> Snapshot:
    """Return the installation as it is now. A worker that has been silent for `silent_seconds` counts as dead."""
    standings = store.fleet.workers()
    tickets = store.tickets.several({id for each in standings for id in each.ticket_ids})
    return Snapshot(
        time.time(),
        [
            Working(each, each.alive(silent_seconds), [tickets[id] for id in each.ticket_ids if id in tickets])
            for each in standings
        ],
        store.statistics.queue(),
        store.statistics.counts(),
        store.statistics.throughput(WINDOW_SECONDS),
        store.statistics.failures(WINDOW_SECONDS),
    )


def seconds_left(ticket: Ticket, now: float) -> float | None:
    """Return the seconds until the upload ends at its rate so far; None while that is unknown."""
    return None if ticket.upload_ends is None else max(0.0, ticket.upload_ends - now)


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "at": iso(snapshot.at),
        "workers": [_worker_json(each, snapshot.at) for each in snapshot.workers],
        "queue": {"depth": snapshot.queue.depth, "oldest_seconds": round(snapshot.queue.oldest_seconds, 3)},
        "tickets": {
            platform: {state.value: snapshot.counts.get((platform, state), 0) for state in State}
            for platform in snapshot.platforms
        },
        "abandoned": snapshot.abandoned,
        "window_seconds": WINDOW_SECONDS,
        "throughput": [asdict(each) for each in snapshot.throughput],
        "failures": dict(snapshot.failures),
    }


def _worker_json(working: Working, now: float) -> dict[str, Any]:
    standing = working.standing
    return {
        **asdict(standing.member),
        "alive": working.alive,
        "drain": standing.drain,
        "started": iso(standing.started),
        "stopped": iso(standing.stopped),
        "silent_seconds": round(standing.silent_seconds, 3),
        "tickets": [_ticket_json(each, now) for each in working.tickets],
    }


def _ticket_json(ticket: Ticket, now: float) -> dict[str, Any]:
    return {
        "id": ticket.id,
        "owner": ticket.owner,
        "platform": ticket.platform,
        "name": ticket.name,
        "state": ticket.state.value,
        "phase": ticket.phase.value,
        "attempt": ticket.attempt,
        "sent_bytes": ticket.progress.sent,
        "total_bytes": ticket.progress.total,
        "percentage": ticket.progress.percentage,
        "bytes_per_second": rate(ticket),
        "seconds_left": seconds_left(ticket, now),
    }
