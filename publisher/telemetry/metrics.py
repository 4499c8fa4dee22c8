"""A process's own metrics, for Prometheus: declared with `counter` and `histogram`, served by `exposition`.

What the store knows is not counted here but read from the store (`publisher.telemetry.store_metrics`), so that each
process reports the same. Labels have few values: no ticket, user or path is a label.

If PROMETHEUS_MULTIPROC_DIR names a directory, the processes that share it count together: each reports the sums.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_REGISTRY = CollectorRegistry()
ProcessCollector(registry=_REGISTRY)
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(name, help, labels, registry=_REGISTRY)


def histogram(name: str, help: str, labels: Sequence[str] = (), *, buckets: Sequence[float]) -> Histogram:
    return Histogram(name, help, labels, registry=_REGISTRY, buckets=buckets)


def exposition(store: CollectorRegistry) -> bytes:
    """Return the metrics of this process, its siblings and `store`, in Prometheus' text format."""
    counted = _REGISTRY
    if DIRECTORY_VARIABLE in os.environ:
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]  # it has no types
    return generate_latest(counted) + generate_latest(store)


BROKER_SENDS = counter("publisher_broker_sends", "Wake-up messages that the broker accepted.")
BROKER_SEND_FAILURES = counter(
    "publisher_broker_send_failures",
    "Wake-up messages that the broker did not accept. The reconciler sends them again.",
)
