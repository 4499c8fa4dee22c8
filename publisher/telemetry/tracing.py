"""Traces (OpenTelemetry), where OTEL_EXPORTER_OTLP_ENDPOINT says where to: from the POST to the last byte.

Elsewhere nothing of it is imported, and nothing done. The standard's variables (OTEL_…) hold; the extra `otel` has what
is needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from publisher.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_QUERY = "url.query"
_TRACER = "publisher"

Attributes = Mapping[str, str | int | float | bool]

_provider: TracerProvider | None = None


def configure(service: str) -> TracerProvider | None:
    """Send this process's spans, as of `service`, to where the environment says; None where it says nothing.

    Repeatable.
    """
    global _provider
    if _provider is None and any(os.environ.get(name) for name in _ENDPOINTS):
        try:
            _provider = _started(service)
        except ImportError:
            logger.error("traces are asked for, but what sends them is not installed: image-publisher[otel]")
    return _provider


def close() -> None:
    """Send what is not sent yet."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def current_traceparent() -> str | None:
    """The span that goes on now, as W3C Trace Context has it; None where none does."""
    if _provider is None:
        return None
    from opentelemetry.trace import get_current_span

    found = get_current_span().get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else None


@contextmanager
def span(name: str, attributes: Attributes, *, traceparent: str | None = None) -> Iterator[Span | None]:
    """Inside, a span goes on: a child of the one that `traceparent` names. None where nothing is traced."""
    if _provider is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})
    tracer = _provider.get_tracer(_TRACER, __version__)
    # What an exception says is for the log and the ticket.
    options: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(
        name, context=parent, kind=SpanKind.CONSUMER, attributes=dict(attributes), **options
    ) as started:
        yield started


class Steps:
    """Spans that follow each other, as children of the one that goes on: each begins where the one before ends."""

    def __init__(self) -> None:
        self._step: Span | None = None

    def begin(self, name: str) -> None:
        if _provider is not None:
            self.end()
            self._step = _provider.get_tracer(_TRACER, __version__).start_span(name)

    def end(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None


def _started(service: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class NoQueries(SpanProcessor):
        """FastAPI notes the query of a request, which may have a signature, or the key of a download."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if _QUERY in (span.attributes or {}):
                span.set_attribute(_QUERY, "...")

    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or f"publisher-{service}"}
    provider = TracerProvider(resource=Resource.create({**named, "service.version": __version__}))
    provider.add_span_processor(NoQueries())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
