"""The span of a request: its name, its parent, its status, and what it hides."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from publisher.store.users import Users
from publisher.telemetry import tracing
from tests.service import Service

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_provider", provider)
    return exporter


def one(spans: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    (span,) = spans.get_finished_spans()
    return span, dict(span.attributes or {})


def test_span_of_a_request_has_its_route_and_its_parent(fresh: Service, spans: InMemorySpanExporter) -> None:
    traceparent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert fresh.get("users/alice/roles?count=7", login="alice", headers=traceparent).status == 200
    span, attributes = one(spans)
    assert (span.name, span.kind) == ("GET /api/users/{uid}/roles", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert attributes["http.route"] == "/api/users/{uid}/roles"
    assert attributes["http.response.status_code"] == 200
    assert attributes["url.path"] == "/api/users/alice/roles"
    assert attributes["url.query"] == "...", "it may contain a signature"
    assert span.status.status_code is StatusCode.UNSET


def test_work_of_a_request_belongs_to_its_span(
    fresh: Service, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    callers = Users.callers

    def note(self: Users, *arguments: Any) -> Any:
        seen.append(tracing.current_traceparent())
        return callers(self, *arguments)

    monkeypatch.setattr(Users, "callers", note)
    assert fresh.get("users/alice", login="alice").status == 200
    span, _ = one(spans)
    assert span.context is not None
    (current,) = seen
    assert str(current).split("-")[1:3] == [f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]
    assert tracing.current_traceparent() is None


def test_unexpected_error_is_an_error_of_the_span(
    fresh: Service, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Users, "callers", lambda *_: 1 / 0)
    assert fresh.get("users/alice", login="alice").status == 500
    span, attributes = one(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes["error.type"] == "500"
    assert not span.events, "the text of an exception belongs in the log"


def test_span_without_a_route_is_named_after_the_method(fresh: Service, spans: InMemorySpanExporter) -> None:
    assert fresh.get("/nothing", login=None).status == 404
    span, attributes = one(spans)
    assert span.name == "GET"
    assert "http.route" not in attributes
