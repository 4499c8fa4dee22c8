"""Give each request an id, which the logs of intake and workers show, and count and time the requests."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from publisher.telemetry import metrics
from publisher.telemetry.logs import bound, request_id

REQUEST_ID = b"x-request-id"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NO_ROUTE = "none"
_NO_ANSWER = "none"

_REQUESTS = metrics.counter(
    "publisher_http_requests",
    "Requests to the intake, by method, route template and status.",
    ["method", "route", "status"],
)
_DURATION = metrics.histogram(
    "publisher_http_request_duration_seconds",
    "Time to answer a request, excluding requests with a `wait` parameter.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0),
)


class Observed:
    """Middleware around everything else, so that every answer has the id, whatever has made it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        id = request_id(given.decode("latin-1"))
        scope.setdefault("state", {})["request_id"] = id
        status, noted = _NO_ANSWER, False

        async def answer(message: Message) -> None:
            nonlocal status, noted
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, id.encode())]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                # Not when the app returns, which includes tasks after the answer: no caller waits for these.
                _note(scope, status, time.perf_counter() - began)
                noted = True

        try:
            with bound(request_id=id):
                await self._app(scope, receive, answer)
        finally:
            if not noted:  # the caller has hung up
                _note(scope, status, time.perf_counter() - began)


def _note(scope: Scope, status: str, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = _template(scope)
    _REQUESTS.labels(method, route, status).inc()
    if b"wait=" not in scope["query_string"]:
        _DURATION.labels(method, route).observe(seconds)


def _template(scope: Scope) -> str:
    """Return the path template of the request's route. Ids would give the metric too many values."""
    route: Any = scope.get("route")
    path: str | None = getattr(route, "path", None)
    if path is None:
        return _NO_ROUTE
    # A route may not know its router's prefix, which is one literal part, such as /api.
    prefix = "/" + scope["path"].split("/", 2)[1]
    return path if path.startswith(prefix) else prefix + path
