"""The fleet, for administrators: live workers and their tickets, the queue, and failures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from publisher.console.page_request import Posted, Visit, Visiting, page_router
from publisher.console.rendering import PageParts, render
from publisher.core.errors import NotFound
from publisher.core.ticket import HELD, Ticket
from publisher.store import Queue, Store, Throughput, WorkerStanding, WorkerState

router = page_router()

_HOUR, _DAY = 3600.0, 86400.0
_COUNT_SECONDS = 5.0
_PARTS = ("numbers", "workers", "throughput", "failures")
"""The elements of the page, each with a template of its own."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """All that the page shows, at one moment."""

    workers: list[tuple[WorkerStanding, WorkerState]]
    tickets: Mapping[int, Ticket]
    queue: Queue
    working: int
    """Number of tickets that workers hold."""
    rates: Mapping[str, tuple[Throughput | None, Throughput | None]]
    """Throughput by platform: in the last hour and in the last day."""
    failures: Mapping[str, tuple[int, int]]
    """Failures by reason: in the last hour and in the last day."""

    @property
    def living(self) -> list[tuple[WorkerStanding, WorkerState]]:
        return [each for each in self.workers if each[1] is not WorkerState.STOPPED]

    @property
    def stopped(self) -> list[tuple[WorkerStanding, WorkerState]]:
        return [each for each in self.workers if each[1] is WorkerState.STOPPED]

    @property
    def alive(self) -> int:
        return sum(state in (WorkerState.ALIVE, WorkerState.DRAINING) for _, state in self.workers)

    @property
    def slots(self) -> int:
        """How many tickets all live workers together can work on at a time."""
        return sum(worker.member.concurrency for worker, state in self.workers if state is WorkerState.ALIVE)


class FleetReader:
    """Reads the state of the fleet repeatedly. A worker that sends nothing for `silent_seconds` counts as silent."""

    def __init__(self, store: Store, silent_seconds: float) -> None:
        self._store = store
        self._silent_seconds = silent_seconds
        self._counted = -math.inf

    def __call__(self) -> FleetView:
        store = self._store
        # Sorted by name, so that no worker changes its place between updates.
        workers = sorted(store.fleet.workers(), key=lambda each: each.member.name)
        # Totals of a whole day are counted only every few seconds: among a hundred thousand tickets, that takes long.
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            self._counted = time.monotonic()
            statistics = store.statistics
            self._rates = _rates(statistics.throughput(_HOUR), statistics.throughput(_DAY))
            self._failures = _failures(statistics.failures(_HOUR), statistics.failures(_DAY))
        counts = store.publications.counts()
        return FleetView(
            workers=[(each, each.state(self._silent_seconds)) for each in workers],
            tickets=store.tickets.several([id for each in workers for id in each.ticket_ids]),
            queue=store.statistics.queue(),
            working=sum(counts[state] for state in HELD),
            rates=self._rates,
            failures=self._failures,
        )


@router.get("/fleet")
def fleet(visit: Visiting) -> Response:
    visit.require_administrator()
    return visit.page("fleet/fleet.html", fleet=FleetReader(visit.store, visit.services.settings.silent_seconds)())


@router.get("/fleet/events")
def events(visit: Visiting) -> Response:
    visit.require_administrator()
    look = FleetReader(visit.store, visit.services.settings.silent_seconds)

    def parts() -> PageParts:
        now = look()
        return PageParts({f"fleet-{part}": render(f"fleet/{part}.html", fleet=now) for part in _PARTS})

    return visit.live(parts)


# A worker's name may contain any character, so it is given in the query.


@router.get("/fleet/drain")
def drain_page(visit: Visiting, worker: str) -> Response:
    """Show what draining the worker would do."""
    visit.require_administrator()
    found = _found(visit, worker)
    return visit.page("fleet/drain.html", worker=found, drain_seconds=visit.services.settings.drain_seconds)


@router.post("/fleet/drain")
def drain(visit: Visiting, form: Posted) -> Response:
    visit.require_administrator()
    name = _found(visit, form.get("worker", "")).member.name
    visit.store.fleet.ask_to_drain(name)
    return visit.redirect("/fleet", f"{name} will begin to drain within a few seconds.")


def _found(visit: Visit, name: str) -> WorkerStanding:
    """Return a worker that has not stopped. Raises `NotFound`."""
    found = next((each for each in visit.store.fleet.workers() if each.member.name == name), None)
    if found is None or found.stopped is not None:
        raise NotFound("There is no such worker, or it has stopped.")
    return found


def _rates(hour: list[Throughput], day: list[Throughput]) -> dict[str, tuple[Throughput | None, Throughput | None]]:
    lately = {each.platform: each for each in hour}
    return {each.platform: (lately.get(each.platform), each) for each in day}


def _failures(hour: Mapping[str, int], day: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the failures, the most frequent reason first."""
    return {reason: (hour.get(reason, 0), day[reason]) for reason in sorted(day, key=lambda each: (-day[each], each))}
