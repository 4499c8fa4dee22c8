"""Watches in the store how the tickets move, to measure recovery times."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.ticket import State
from publisher.store import Store
from tests.chaos.faults import Done

_EVERY_SECONDS = 0.2


class Watch:
    """Use as a context manager. A ticket *moves* when its upload grows, or when it ends."""

    def __init__(self, store: Store) -> None:
        self.moves: list[tuple[float, int]] = []
        """Time by the monotonic clock, and the number of the ticket."""
        self.ends: list[tuple[float, int]] = []
        """The moves that were the end of a ticket. One that is withdrawn ends twice."""
        self._store = store
        self._last: dict[int, tuple[State, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            try:
                tickets = self._store.tickets.list()
            except SQLAlchemyError:  # a fault hits the database at the moment
                continue
            now = time.monotonic()
            for ticket in tickets:
                before = self._last.get(ticket.id, (State.QUEUED, 0))
                ends = ticket.final and ticket.state is not before[0]
                if ends:
                    self.ends.append((now, ticket.id))
                if ends or ticket.progress.sent > before[1]:
                    self.moves.append((now, ticket.id))
                self._last[ticket.id] = ticket.state, ticket.progress.sent


def recoveries(
    faults: Iterable[Done], moves: Iterable[tuple[float, int]], ends: Iterable[tuple[float, int]] = ()
) -> list[tuple[float, str]]:
    """Return the recovery time and the kind of each fault that affected tickets, the longest first.

    The time, in seconds, lasts from the end of the fault, when its victim runs again, until an affected ticket moves.
    A worker's fault affects the tickets that the worker held; any other fault affects all tickets that had not ended. A
    ticket that ended before the fault did needed no recovery. Faults overlap: the time includes other faults.
    """
    moves, ends = list(moves), list(ends)
    found = []
    for done in faults:
        affected = done.affected - {ticket for at, ticket in ends if done.began <= at <= done.ended}
        after = [at for at, ticket in moves if at > done.ended and ticket in affected]
        if after:
            found.append((min(after) - done.ended, done.fault.kind))
    return sorted(found, reverse=True)
