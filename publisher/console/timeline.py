"""A ticket's history as a timeline: its steps under the attempts that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from publisher.core.ticket import HistoryEntry, Phase, State


@dataclass(frozen=True, slots=True)
class TimelineStep:
    at: float
    words: str
    kind: str
    """The kind of step: `queued`, `claimed`, `phase`, `retrying`, `cancelling`, `published`, `failed`, `cancelled`."""
    seconds: float | None
    """Seconds until the next step; None for the last."""


def timeline(history: Sequence[HistoryEntry]) -> list[TimelineStep]:
    """Return the steps of a history, oldest first."""
    following = [each.at for each in history[1:]] + [None]
    return [
        TimelineStep(entry.at, entry.words, _kind(entry), None if until is None else max(until - entry.at, 0.0))
        for entry, until in zip(history, following, strict=True)
    ]


def _kind(entry: HistoryEntry) -> str:
    match entry.from_state, entry.to_state:
        case State.PUBLISHING, State.QUEUED:
            return "retrying"
        case _, State.PUBLISHING | State.CANCELLING if entry.phase is Phase.PREPARING:
            return "claimed"
        case _, State.PUBLISHING:
            return "phase"
        case _, state:
            return state
