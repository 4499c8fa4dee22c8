"""Serve a worker's metrics and health over HTTP on its own port: /metrics, /healthz, /readyz."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from publisher.core.allowed_hosts import is_allowed
from publisher.core.settings import Settings
from publisher.services.health import Readiness, ReadinessCheck, store_check
from publisher.store import Store
from publisher.telemetry.metrics import CONTENT_TYPE, exposition
from publisher.telemetry.metrics_access import Monitors
from publisher.telemetry.store_metrics import store_registry

logger = logging.getLogger(__name__)

_READ_SECONDS = 10.0
_Answer = tuple[int, str, bytes, dict[str, str]]


class Consumer:
    """Tells whether this worker is connected to the broker. Celery's signals set the consumer."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def runs(self, consumer: Any) -> None:
        self._consumer = consumer

    def check(self) -> ReadinessCheck:
        if self._consumer is None:
            return ReadinessCheck("the worker is not connected to the broker yet")
        # While Celery reconnects, its consumer has no connection.
        return ReadinessCheck(None if self._consumer.connection is not None else "the connection to the broker is lost")


def readiness(store: Store, consumer: Consumer, draining: threading.Event) -> Readiness:
    """Return the readiness checks of a worker. A worker is ready if it takes tickets."""
    refusal = "the worker is draining and takes no new tickets"
    return Readiness(
        {
            "store": lambda: store_check(store),
            "consumer": consumer.check,
            "drain": lambda: ReadinessCheck(refusal if draining.is_set() else None),
        }
    )


class MonitoringServer:
    """Serves from its own thread for as long as the process lives."""

    def __init__(self, store: Store, settings: Settings, ready: Readiness) -> None:
        self._registry = store_registry(store, settings.silent_seconds)
        self._settings = settings
        self._monitors = Monitors.of(settings)
        self._ready = ready
        self._server = ThreadingHTTPServer(
            (settings.worker_metrics_host, settings.worker_metrics_port), _handler(self._answers())
        )
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answers(self) -> dict[str, Callable[[BaseHTTPRequestHandler], _Answer]]:
        return {"/metrics": self._metrics, "/healthz": lambda _: _json(200, {"alive": True}), "/readyz": self._readyz}

    def _metrics(self, request: BaseHTTPRequestHandler) -> _Answer:
        refusal = self._monitors.refusal(
            request.client_address[0],
            request.headers.get("Authorization"),
            by_proxy=False,
            own_host=is_allowed(
                request.headers.get("Host", ""),
                self._settings,
                local_address=request.connection.getsockname()[0],
            ),
        )
        if refusal:
            return _words(refusal.status, refusal.message, dict(refusal.headers))
        return 200, CONTENT_TYPE, exposition(self._registry), {}

    def _readyz(self, _: BaseHTTPRequestHandler) -> _Answer:
        ready, report = self._ready.report()
        return _json(200 if ready else 503, report)


def serve(store: Store, settings: Settings, ready: Readiness) -> MonitoringServer | None:
    """Start the server if a port is set. Without its port, a worker has no metrics but still works."""
    if not settings.worker_metrics_port:
        return None
    try:
        return MonitoringServer(store, settings, ready)
    except (OSError, OverflowError) as error:
        logger.error(
            "this worker has no metrics: cannot listen on %s:%d: %s; see PUBLISHER_WORKER_METRICS_PORT",
            settings.worker_metrics_host,
            settings.worker_metrics_port,
            error,
        )
    return None


def _handler(answers: dict[str, Callable[[BaseHTTPRequestHandler], _Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _READ_SECONDS

        def do_GET(self) -> None:  # http.server's name for it
            answer = answers.get(self.path.partition("?")[0])
            status, kind, body, headers = answer(self) if answer else _words(404, "there is no such resource")
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            return "image-publisher"

        def log_message(self, format: str, *arguments: object) -> None:
            """Do not log every request."""

    return Handler


def _json(status: int, value: dict[str, Any]) -> _Answer:
    return status, "application/json", json.dumps(value).encode(), {}


def _words(status: int, words: object, headers: dict[str, str] | None = None) -> _Answer:
    return status, "text/plain; charset=utf-8", f"{words}\n".encode(), headers or {}
