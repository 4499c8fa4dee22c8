"""Traces (OpenTelemetry) from the POST to the last byte, if OTEL_EXPORTER_OTLP_ENDPOINT is set.

Otherwise nothing is imported and nothing is done. The standard's variables (OTEL_…) apply. The extra `otel` installs
the packages that are needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from publisher.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACER = "publisher"

Attributes = Mapping[str, str | int | float | bool]

_provider: TracerProvider | None = None


def configure(service: str) -> TracerProvider | None:
    """Send this process's spans, in the name of `service`, to the endpoint in the environment. None if there is none.

    Can be repeated.
    """
    global _provider
    if _provider is None and any(os.environ.get(name) for name in _ENDPOINTS):
        try:
            _provider = _started(service)
        except ImportError:
            logger.error("tracing is configured, but its packages are not installed; install image-publisher[otel]")
    return _provider


def close() -> None:
    """Send the remaining spans and stop."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def current_traceparent() -> str | None:
    """Return the current span in the form of W3C Trace Context; None if there is none."""
    if _provider is None:
        return None
    from opentelemetry.trace import get_current_span

    found = get_current_span().get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else None


@contextmanager
def span(name: str, attributes: Attributes, *, traceparent: str | None = None) -> Iterator[Span | None]:
    """Run the block in a span, a child of the span that `traceparent` names. Yields None if tracing is off."""
    if _provider is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})
    tracer = _provider.get_tracer(_TRACER, __version__)
    # The text of an exception belongs in the log and the ticket.
    options: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(
        name, context=parent, kind=SpanKind.CONSUMER, attributes=dict(attributes), **options
    ) as started:
        yield started


class RequestSpan:
    """The span of a request to the intake, a child of the span that its `traceparent` names.

    It is the current span inside `with`, and ends with the answer: what runs after that is not part of the request.
    """

    @staticmethod
    def wanted() -> bool:
        return _provider is not None

    def __init__(self, scope: Mapping[str, Any]) -> None:
        from opentelemetry.trace import SpanKind, use_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        assert _provider is not None  # noqa: S101  # only then it is wanted
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._method: str = scope["method"]
        attributes = {
            "http.request.method": self._method,
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
            "network.protocol.version": scope.get("http_version", ""),
            **dict(zip(("server.address", "server.port"), scope.get("server") or (), strict=False)),
        }
        if scope["query_string"]:
            attributes["url.query"] = "..."  # it may contain a signature or a download key
        parent = TraceContextTextMapPropagator().extract(headers)
        tracer = _provider.get_tracer(_TRACER, __version__)
        self._span = tracer.start_span(self._method, context=parent, kind=SpanKind.SERVER, attributes=attributes)
        # The text of an exception belongs in the log.
        self._current = use_span(self._span, record_exception=False, set_status_on_exception=False)

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._current.__exit__(*error)

    def end(self, route: str | None, status: int | str) -> None:
        """End the span, with the template of the request's path and the status of the answer."""
        from opentelemetry.trace import StatusCode

        if route is not None:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if not isinstance(status, int) or status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Steps:
    """Consecutive spans, children of the current one. Each begins where the previous one ends."""

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
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or f"publisher-{service}"}
    provider = TracerProvider(resource=Resource.create({**named, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
