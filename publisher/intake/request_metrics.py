"""What is noted of each request: the id under which the logs, here and in the workers, name it, and how it was
answered."""

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
    """Around everything else, so that each answer tells its id, whatever has made it."""

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
                # Not when the app returns: what is left for after the answer keeps no caller waiting.
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
    """The path as its route has it, names in place of ids: there are as many as there are routes."""
    route: Any = scope.get("route")
    path: str | None = getattr(route, "path", None)
    if path is None:
        return _NO_ROUTE
    # A route may know itself without the prefix of its router: one literal part, such as /api.
    prefix = "/" + scope["path"].split("/", 2)[1]
    return path if path.startswith(prefix) else prefix + path
