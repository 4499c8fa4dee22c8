"""Metrics from the store. They are read on request, so that all processes report the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import Reason
from publisher.core.ticket import State
from publisher.store import Store
from publisher.store.fleet import WorkerStanding, WorkerState
from publisher.version import __version__

_FRESH_SECONDS = 1.0
_FRESH_TIMES = 10
"""Cache results for this many times as long as reading took, so that frequent requests do not burden the store."""
_WINDOWS = {"1h": 3600.0, "24h": 86400.0}
_LOST_SECONDS = 3600.0
"""Workers that went silent longer ago than this are left out."""


def store_registry(store: Store, silent_seconds: float) -> CollectorRegistry:
    """Return the store's metrics, to serve with the process's own. `silent_seconds`: when a worker counts as dead."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(store, silent_seconds))
    return registry


class StoreCollector(Collector):
    """Reads metrics from the store. Thread-safe."""

    def __init__(self, store: Store, silent_seconds: float) -> None:
        self._store = store
        self._silent_seconds = silent_seconds
        self._lock = threading.Lock()
        self._read: list[Metric] = []
        self._until = 0.0

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering the collector does not query the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._refresh()
            yield from self._read

    def _refresh(self) -> None:
        began = time.monotonic()
        found: list[Metric] = []
        try:
            for each in (self._tickets, self._recent, self._fleet, self._rest):
                found += each()
            up = 1
        except SQLAlchemyError:
            # Do not repeat earlier values: they may be wrong by now.
            found, up = [], 0
        took = time.monotonic() - began
        found.append(_gauge("publisher_store_up", "Whether the store answers.", up))
        found.append(_gauge("publisher_store_read_seconds", "How long the store took to tell all of this.", took))
        version = GaugeMetricFamily("publisher_build_info", "The version that runs.", labels=["version"])
        version.add_metric([__version__], 1)
        self._read = [*found, version]
        self._until = time.monotonic() + max(_FRESH_SECONDS, _FRESH_TIMES * took)

    def _tickets(self) -> Iterator[Metric]:
        counts = self._store.statistics.counts()
        tickets = GaugeMetricFamily("publisher_tickets", "Tickets there are.", labels=["state", "platform"])
        for platform in sorted({platform for platform, _ in counts}):
            for state in State:
                tickets.add_metric([state, platform], counts.get((platform, state), 0))
        yield tickets
        queue = self._store.statistics.queue()
        yield _gauge("publisher_queue_depth", "Tickets that wait for a worker, now or later.", queue.depth)
        yield _gauge(
            "publisher_queue_oldest_seconds", "How long the oldest ticket that may begin waits.", queue.oldest_seconds
        )

    def _recent(self) -> Iterator[Metric]:
        failures = GaugeMetricFamily(
            "publisher_recent_failures", "Tickets that failed lately, by reason.", labels=["reason", "window"]
        )
        images, size, seconds = (
            GaugeMetricFamily(f"publisher_recent_{name}", help, labels=["platform", "window"])
            for name, help in (
                ("published_images", "Images that were published lately."),
                ("published_bytes", "Bytes of the images that were published lately."),
                ("publication_seconds", "Time that the images which were published lately took, all together."),
            )
        )
        for window, length in _WINDOWS.items():
            failed = self._store.statistics.failures(length)
            for reason in Reason:
                failures.add_metric([reason, window], failed.get(reason, 0))
            for each in self._store.statistics.throughput(length):
                labels = [each.platform, window]
                images.add_metric(labels, each.images)
                size.add_metric(labels, each.bytes)
                seconds.add_metric(labels, each.seconds)
        yield from (failures, images, size, seconds)

    def _fleet(self) -> Iterator[Metric]:
        found = [(each, each.state(self._silent_seconds)) for each in self._store.fleet.workers()]
        workers = GaugeMetricFamily("publisher_workers", "Workers there are.", labels=["state"])
        for state in (WorkerState.ALIVE, WorkerState.DRAINING, WorkerState.SILENT):
            workers.add_metric([state], sum(1 for each, its in found if its is state and _lately(each)))
        yield workers
        alive = [each for each, state in found if state is WorkerState.ALIVE]
        slots = sum(each.member.concurrency for each in alive)
        busy = sum(len(each.ticket_ids) for each in alive)
        yield _gauge("publisher_worker_slots", "Publications that the workers which live can run at a time.", slots)
        yield _gauge("publisher_worker_slots_busy", "Publications that they run.", busy)

    def _rest(self) -> Iterator[Metric]:
        told = self._store.statistics.notifications()
        notifications = GaugeMetricFamily(
            "publisher_notifications", "Notifications that wait to be delivered, or were given up.", labels=["state"]
        )
        notifications.add_metric(["waiting"], told.waiting)
        notifications.add_metric(["failed"], told.failed)
        yield notifications
        yield _gauge(
            "publisher_notification_oldest_seconds", "How long the oldest notification waits.", told.oldest_seconds
        )
        orphans = self._store.statistics.orphans()
        yield _gauge("publisher_orphans", "Objects in clouds that the sweeper saw and nobody needs.", orphans)


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value=value)


def _lately(worker: WorkerStanding) -> bool:
    return worker.silent_seconds < _LOST_SECONDS
