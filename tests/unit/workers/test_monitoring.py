"""A worker's metrics and health, over a real socket."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from publisher.core.settings import Settings
from publisher.store import Store
from tests.patience import PATIENCE
from tests.records import add_ticket
from tests.servers.process import free_port
from workers import metrics as metrics  # declares the counters of a worker
from workers.drain import Drain
from workers.monitoring import Consumer, MonitoringServer, readiness, serve


@dataclass
class Worker:
    port: int
    consumer: Consumer
    drain: Drain


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.services.health._FRESH_SECONDS", 0.0)


@pytest.fixture
def worker(sqlite_store: Store) -> Iterator[Worker]:
    consumer, drain = Consumer(), Drain(60)
    settings = Settings(worker_metrics_port=free_port())
    served = serve(sqlite_store, settings, readiness(sqlite_store, consumer, drain.begun))
    assert served is not None
    yield Worker(served.port, consumer, drain)
    served.close()


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ready(worker: Worker) -> tuple[int, dict[str, Any]]:
    status, body = get(worker.port, "/readyz")
    return status, {name: each["ok"] for name, each in json.loads(body)["checks"].items()}


@pytest.mark.long
def test_metrics_cover_the_store_and_the_worker(worker: Worker, sqlite_store: Store) -> None:
    add_ticket(sqlite_store)
    status, body = get(worker.port, "/metrics")
    found = {each.name: each for each in text_string_to_metric_families(body)}
    assert status == 200
    (depth,) = found["publisher_queue_depth"].samples
    assert depth.value == 1
    assert {"publisher_uploaded_bytes", "publisher_attempts", "process_resident_memory_bytes"} <= set(found)


@pytest.mark.long
def test_worker_is_ready_only_while_it_takes_tickets(worker: Worker) -> None:
    assert get(worker.port, "/healthz") == (200, '{"alive": true}')
    assert ready(worker) == (503, {"store": True, "consumer": False, "drain": True})
    celery = SimpleNamespace(connection=object())
    worker.consumer.runs(celery)
    assert ready(worker) == (200, {"store": True, "consumer": True, "drain": True})
    celery.connection = None
    assert ready(worker) == (503, {"store": True, "consumer": False, "drain": True})
    celery.connection = object()
    worker.drain.ask()
    assert ready(worker) == (503, {"store": True, "consumer": True, "drain": False})
    assert get(worker.port, "/healthz")[0] == 200


@pytest.mark.long
def test_other_paths_are_not_found(worker: Worker) -> None:
    assert get(worker.port, "/")[0] == 404


@pytest.mark.long
def test_metrics_require_the_token_if_one_is_set(sqlite_store: Store, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-of-tests")
    settings = Settings(worker_metrics_port=free_port(), metrics_token_file=tmp_path / "token")
    served = MonitoringServer(sqlite_store, settings, readiness(sqlite_store, Consumer(), Drain(60).begun))
    try:
        assert get(served.port, "/metrics")[0] == 401
        assert get(served.port, "/metrics", Authorization="Bearer secret-of-tests")[0] == 200
    finally:
        served.close()


@pytest.mark.long
def test_worker_runs_without_metrics_if_their_port_is_taken(
    worker: Worker, sqlite_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    ready = readiness(sqlite_store, Consumer(), Drain(60).begun)
    with caplog.at_level(logging.ERROR):
        assert serve(sqlite_store, Settings(worker_metrics_port=worker.port), ready) is None
    assert "PUBLISHER_WORKER_METRICS_PORT" in caplog.text
    assert serve(sqlite_store, Settings(), ready) is None
