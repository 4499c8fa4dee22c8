"""The one layer between the server and the routes.

- Each request has an id, which the answer and the logs of intake and workers show. Requests are counted and timed.
- What HTTP requires of each answer (RFC 9110, RFC 9112): HEAD is answered like GET without the body, bodies that are
  ambiguous or encoded are refused, and some connections are closed.
- Headers tell a browser what it must not do with an answer: one set for documents, one for pages.
- Sign-ins and refusals are limited.
- Errors become documents or pages.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, unbind_contextvars

from publisher.telemetry import metrics
from publisher.telemetry.logs import request_id
from publisher.telemetry.tracing import RequestSpan
from publisher.web import API, HEAD_ONLY, PASSWORD_KNOWN, Authenticator, Problem, Renderer, address, describe

Headers = list[tuple[bytes, bytes]]

_REQUEST_ID = b"x-request-id"
_CLOSE = (b"connection", b"close")
_LAST = (408, 500)
"""Statuses after which the connection is closed: the rest of the request, or our own state, is in doubt."""

_REFUSALS_PER_SECOND = 200
_WAIT_SECONDS_MAX = 1.0

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NONE = "none"
"""Counted as the route, or the status, of a request that has none."""

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
_counted: dict[tuple[str, str, int | str], tuple[Counter, Histogram]] = {}
"""The metrics for a method, a route and a status: to find them by their labels takes longer than to count."""

_ALL = [(b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY")]
_DOCUMENT: Headers = [
    *_ALL,
    (b"referrer-policy", b"no-referrer"),
    # Programs read documents and disk images. A browser must not load or run anything because of them.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Only the caller's own cache may keep an answer, and must ask each time whether it is still current (304).
    (b"cache-control", b"private, no-cache"),
]
_PAGE: Headers = [
    *_ALL,
    # The console's forms send their origin; other hosts get none.
    (b"referrer-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_PAGE_CACHE = (b"cache-control", b"no-store")
_STATIC_CACHE = (b"cache-control", b"public, max-age=31536000, immutable")
"""The paths of static files change with their content, so browsers may keep the files."""
_OF_PAGES = frozenset({name for name, _ in _PAGE} | {b"cache-control"})
_BY_TLS = (b"strict-transport-security", b"max-age=31536000")
"""A browser that has come by HTTPS never uses HTTP again."""


class RequestHandler:
    """Handles each request around the application that answers it.

    What is below the path `pages_below` is for people: its errors are pages, and its answers have exactly the headers
    of pages. Anything else is a document and keeps the headers that its route has set.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        *,
        document: Renderer,
        page: Renderer,
        pages_below: str,
        production: bool,
    ) -> None:
        """`document` and `page` render the errors."""
        self.app = app
        self.admission = Admission(authenticator)
        self._document = document
        self._page = page
        self._pages_below = f"{pages_below}/"
        self._production = production

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith(f"{API}//"):
            # Clients send this if their base URL ends with a slash.
            scope["path"] = path = API + path[len(API) + 1 :]
        exchange = _Exchange(self, scope, send)
        bind_contextvars(request_id=exchange.id)  # for the logs
        try:
            if RequestSpan.wanted():
                with RequestSpan(scope) as exchange.span:
                    await self._answer(exchange, scope, receive)
            else:
                await self._answer(exchange, scope, receive)
        finally:
            unbind_contextvars("request_id")
            exchange.note()  # unless it is noted already: the caller may have hung up

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        if problem := _refusal(scope):
            is_page = f"{scope['path']}/".startswith(self._pages_below)
            await self._render(scope, problem, is_page=is_page)(scope, receive, exchange.send)
            return
        inner = scope
        if scope["method"] == "HEAD":
            # A copy, because the server's log shows the method.
            inner = exchange.inner = {**scope, "method": "GET", HEAD_ONLY: True}
        try:
            await self.admission.check(inner)
            await self.app(inner, receive, exchange.send)
        except Exception as error:
            if exchange.status != _NONE:
                raise
            problem = describe(Request(inner), error)
            is_page = scope["path"].startswith(self._pages_below)
            await self._render(inner, problem, is_page=is_page)(inner, receive, exchange.send)
            if problem.status == 500:
                raise  # for the server's log

    def _render(self, scope: Scope, problem: Problem, *, is_page: bool) -> ASGIApp:
        return (self._page if is_page else self._document)(Request(scope), problem)

    def completed(self, headers: Iterable[tuple[bytes, bytes]], scope: Scope, status: int) -> Headers:
        """Return the headers of an answer, with those that protect browsers."""
        path: str = scope["path"]
        if f"{path}/".startswith(self._pages_below):
            complete = [each for each in headers if each[0] not in _OF_PAGES]
            complete += _PAGE
            is_static = status == 200 and path.startswith(f"{self._pages_below}static/")
            complete.append(_STATIC_CACHE if is_static else _PAGE_CACHE)
        else:
            complete = list(headers)
            present = {name for name, _ in complete}
            complete += [each for each in _DOCUMENT if each[0] not in present]
        if self._production and scope["scheme"] == "https" and all(name != _BY_TLS[0] for name, _ in complete):
            complete.append(_BY_TLS)
        if status in _LAST:
            complete.append(_CLOSE)
        return complete


class _Exchange:
    """A request and its answer."""

    __slots__ = ("_began", "_ended", "_handler", "_noted", "_scope", "_send", "id", "inner", "span", "status")

    def __init__(self, handler: RequestHandler, scope: Scope, send: Send) -> None:
        self._began = time.perf_counter()
        self._handler = handler
        self._scope = scope
        self._send = send
        self._ended = False
        self._noted = False
        self.id = _request_id(scope)
        self.inner = scope
        """The scope for the application: another one for HEAD."""
        self.span: RequestSpan | None = None
        self.status: int | str = _NONE
        scope.setdefault("state", {})["request_id"] = self.id

    async def send(self, message: Message) -> None:
        """Send a message of the answer, with what every answer has."""
        if self._ended:
            return
        if message["type"] == "http.response.start":
            status: int = message["status"]
            if status == 429:
                await self._handler.admission.turn()
            self.status = status
            headers = self._handler.completed(message.get("headers", ()), self._scope, status)
            headers.append((_REQUEST_ID, self.id.encode()))
            message["headers"] = headers
            await self._send(message)
            if self.inner is not self._scope:
                self._ended = True
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                self.note()
        else:
            await self._send(message)
            if not message.get("more_body"):
                # Not when the app returns, which includes tasks after the answer: no caller waits for these.
                self.note()

    def note(self) -> None:
        """Count the request, once."""
        if self._noted:
            return
        self._noted = True
        seconds = time.perf_counter() - self._began
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        # The template of the path, because ids would give the metric too many values.
        route: Any = self.inner.get("route")
        path: str = _NONE if route is None else route.path
        counted = _counted.get((method, path, self.status))
        if counted is None:
            counted = _REQUESTS.labels(method, path, str(self.status)), _DURATION.labels(method, path)
            _counted[method, path, self.status] = counted
        counted[0].inc()
        if b"wait=" not in self._scope["query_string"]:
            counted[1].observe(seconds)
        if self.span is not None:
            self.span.end(route=None if route is None else path, status=self.status)


class Admission:
    """Refuse sign-ins that exceed the limits before they reach a route, and pace all refusals (429).

    Here a guess takes no thread. Callers who retry as fast as they are refused would still fill each turn of the event
    loop, of which every request needs several. At 200 refusals a second they take a small part of a core, and other
    callers are answered in between.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._next_refusal = 0.0
        """When the next refusal is due, by the event loop's clock."""

    async def check(self, scope: Scope) -> None:
        """Raise `TooMany` for a sign-in that exceeds the limits. Notes in the scope whether its password is known."""
        # Every route below this path needs a login. A request with an API key has a signature, which is no guess.
        if not scope["path"].startswith(f"{API}/users/") or b"apiKey=" in scope["query_string"]:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if given is None:
            return
        if known := await self._authenticator.check_admission(given.decode("latin-1"), address(Request(scope))):
            scope[PASSWORD_KNOWN] = known

    async def turn(self) -> None:
        """Wait until this refusal may be sent. A few are sent at once."""
        now = asyncio.get_running_loop().time()
        due = min(max(now, self._next_refusal), now + _WAIT_SECONDS_MAX)
        self._next_refusal = due + 1 / _REFUSALS_PER_SECOND
        await asyncio.sleep(due - now)


def _request_id(scope: Scope) -> str:
    """Return the request's own id if it is fit for a log, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == _REQUEST_ID:
            return request_id(value.decode("latin-1"))
    # An id is no secret. To ask the system for random bytes would let another thread go on, and the event loop would
    # have to wait until that one pauses.
    return f"{random.getrandbits(128):032x}"


def _refusal(scope: Scope) -> Problem | None:
    """Return what is wrong with how the request's body is sent."""
    names = {name for name, _ in scope["headers"]}
    if b"transfer-encoding" in names:
        # Two servers that read it differently would take a part of one request for another (RFC 9112, 6.1 and 11.2).
        if b"content-length" in names:
            return _ambiguous("Content-Length and Transfer-Encoding: send one of them, not both")
        if scope.get("http_version") == "1.0":
            return _ambiguous("Transfer-Encoding: not part of HTTP/1.0; send Content-Length")
    if b"content-encoding" in names and _has_body(scope):
        codings = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding")
        if any(coding.strip().lower() not in ("", "identity") for coding in codings.split(",")):
            return Problem(
                415,
                "Content-Encoding: encoded bodies are not accepted; send the body unencoded",
                "UnsupportedMediaType",
                {"Accept-Encoding": "identity"},  # RFC 9110, 15.5.16
            )
    return None


def _ambiguous(message: str) -> Problem:
    return Problem(400, message, "InvalidRequest", {"Connection": "close"})


def _has_body(scope: Scope) -> bool:
    headers: dict[bytes, Any] = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""
