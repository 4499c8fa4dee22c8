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
from publisher.store import Store, WorkerStanding, WorkerState
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
        found.append(_gauge("publisher_store_up", "1 if the ticket store answers, else 0.", up))
        found.append(
            _gauge(
                "publisher_store_read_seconds", "Time to read these metrics from the ticket store, in seconds.", took
            )
        )
        version = GaugeMetricFamily("publisher_build_info", "Version of the running program.", labels=["version"])
        version.add_metric([__version__], 1)
        self._read = [*found, version]
        self._until = time.monotonic() + max(_FRESH_SECONDS, _FRESH_TIMES * took)

    def _tickets(self) -> Iterator[Metric]:
        counts = self._store.statistics.counts()
        tickets = GaugeMetricFamily(
            "publisher_tickets", "Number of tickets, by state and platform.", labels=["state", "platform"]
        )
        for platform in sorted({platform for platform, _ in counts}):
            for state in State:
                tickets.add_metric([state, platform], counts.get((platform, state), 0))
        yield tickets
        queue = self._store.statistics.queue()
        yield _gauge(
            "publisher_queue_depth", "Number of queued tickets, including those that wait for a retry.", queue.depth
        )
        yield _gauge(
            "publisher_queue_oldest_seconds",
            "Waiting time of the oldest ticket that is ready for a worker, in seconds.",
            queue.oldest_seconds,
        )

    def _recent(self) -> Iterator[Metric]:
        failures = GaugeMetricFamily(
            "publisher_recent_failures",
            "Number of tickets that failed within the window, by reason.",
            labels=["reason", "window"],
        )
        images, size, seconds = (
            GaugeMetricFamily(f"publisher_recent_{name}", help, labels=["platform", "window"])
            for name, help in (
                ("published_images", "Number of images published within the window."),
                ("published_bytes", "Total size of the images published within the window, in bytes."),
                ("publication_seconds", "Total time to publish the images published within the window, in seconds."),
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
        workers = GaugeMetricFamily("publisher_workers", "Number of workers, by state.", labels=["state"])
        for state in (WorkerState.ALIVE, WorkerState.DRAINING, WorkerState.SILENT):
            workers.add_metric([state], sum(1 for each, its in found if its is state and _lately(each)))
        yield workers
        alive = [each for each, state in found if state is WorkerState.ALIVE]
        slots = sum(each.member.concurrency for each in alive)
        busy = sum(len(each.ticket_ids) for each in alive)
        yield _gauge("publisher_worker_slots", "Number of tickets that the live workers can process at a time.", slots)
        yield _gauge("publisher_worker_slots_busy", "Number of tickets that the live workers are processing.", busy)

    def _rest(self) -> Iterator[Metric]:
        backlog = self._store.statistics.notifications()
        notifications = GaugeMetricFamily(
            "publisher_notifications",
            "Number of webhook notifications that are waiting or have failed.",
            labels=["state"],
        )
        notifications.add_metric(["waiting"], backlog.waiting)
        notifications.add_metric(["failed"], backlog.failed)
        yield notifications
        yield _gauge(
            "publisher_notification_oldest_seconds",
            "Age of the oldest waiting webhook notification, in seconds.",
            backlog.oldest_seconds,
        )
        orphans = self._store.statistics.orphans()
        yield _gauge("publisher_orphans", "Number of orphans in clouds, as found by the sweeper.", orphans)


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value=value)


def _lately(worker: WorkerStanding) -> bool:
    return worker.silent_seconds < _LOST_SECONDS
