"""The faults of a run: a schedule that follows from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KINDS: Mapping[str, str] = {
    "worker_killed": "worker",
    "worker_paused": "worker",
    "intake_killed": "intake",
    "intake_killed_in_burst": "intake",
    "broker_killed": "broker",
    "broker_emptied": "broker",
    "database_killed": "database",
    "database_locked": "database",
    "disk_full": "database",
    "glance_killed": "glance",
    "connections_cut": "wire",
    "uploads_stalled": "wire",
    "uploads_throttled": "wire",
    "requests_refused": "wire",
    "answers_lost": "wire",
    "tokens_expired": "wire",
}
"""Maps each kind of fault to what it hits. Faults of one thing follow each other; those of different things overlap."""


@dataclass(frozen=True)
class Fault:
    at: float
    """Seconds since the faults began. It begins later if an earlier fault of the same thing still lasts."""
    kind: str
    seconds: float
    """How long it lasts; after a kill, the time until the restart."""
    which: int
    """Chooses among several, such as workers or HTTP statuses."""


def schedule(rng: random.Random, *, seconds: float, count: int, kinds: Sequence[str]) -> list[Fault]:
    """Return the schedule that follows from the generator's seed. Every kind occurs before any is repeated."""
    deck: list[str] = []
    faults = []
    for number in range(count):
        if not deck:
            deck = list(kinds)
            rng.shuffle(deck)
        kind = deck.pop()
        at = (number + rng.uniform(0.1, 0.9)) * seconds / count
        faults.append(Fault(at, kind, seconds=_how_long(rng, kind), which=rng.randrange(1000)))
    return faults


def _how_long(rng: random.Random, kind: str) -> float:
    match kind:
        case "worker_paused":
            return rng.uniform(3.5, 6)  # a lease is 3 s
        case "database_locked":
            return rng.uniform(1, 6)
        case "connections_cut" | "tokens_expired":
            return 0.0  # done at once
        case "uploads_stalled":
            return rng.uniform(1, 6)  # the workers give up after 4 s
        case _:
            return rng.uniform(0.2, 3)
