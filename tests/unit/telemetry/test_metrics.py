"""Metrics of a process, and traces."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from publisher.core.broker import Broker
from publisher.core.errors import QueueUnavailable
from publisher.services.wakeups import WakeQueue
from publisher.telemetry import tracing
from publisher.telemetry.metrics import exposition
from tests.servers.process import free_port


def counted(name: str) -> float:
    """Return the value of a counter without labels."""
    lines = exposition(CollectorRegistry()).decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.long
def test_a_failed_wake_up_is_counted() -> None:
    before = counted("publisher_broker_send_failures_total")
    sent = counted("publisher_broker_sends_total")
    queue = WakeQueue(Broker(f"redis://127.0.0.1:{free_port()}/0"), timeout_seconds=1.0)
    with pytest.raises(QueueUnavailable):
        queue.send(1)
    assert counted("publisher_broker_send_failures_total") == before + 1
    assert counted("publisher_broker_sends_total") == sent


# Traces ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _untraced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    yield
    tracing.close()


def test_nothing_is_traced_without_an_endpoint() -> None:
    assert tracing.configure("x") is None
    with tracing.span("attempt", {"a": 1}, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01") as span:
        assert span is None
        assert tracing.current_traceparent() is None
        steps = tracing.Steps()
        steps.begin("one")
        steps.end()


@pytest.mark.long
def test_a_trace_continues_that_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    provider = tracing.configure("x")
    assert provider is not None
    assert tracing.configure("x") is provider
    assert tracing.current_traceparent() is None
    with tracing.span("attempt", {}, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"):
        told = tracing.current_traceparent() or ""
    assert told.startswith("00-" + "1" * 32 + "-")
    assert "2" * 16 not in told


def test_missing_packages_for_traces_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.ERROR):
        assert tracing.configure("x") is None
    assert "image-publisher[otel]" in caplog.text
