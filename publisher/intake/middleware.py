"""Middleware around all routes: what HTTP requires of each (RFC 9110, RFC 9112), and a limit on sign-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from publisher.core.errors import TooMany
from publisher.intake.error_documents import problem
from publisher.web.auth import Authenticator
from publisher.web.request import API, HEAD_ONLY, address

_REFUSALS_PER_SECOND = 200
_WAIT_SECONDS_MAX = 1.0

_CLOSE = (b"connection", b"close")
_LAST = (408, 500)
"""Statuses after which the connection is closed: the rest of the request, or our own state, is in doubt."""

Page = Callable[[Request, int, str, Mapping[str, str]], ASGIApp]


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    message: str
    kind: str
    headers: dict[str, str]


class Conformance:
    """Answer HEAD like GET without the body, refuse bodies that are ambiguous or encoded, and close some connections.

    After an error that leaves a connection in an unknown state, no further request can be read from it.
    """

    def __init__(self, app: ASGIApp, *, pages_below: str, page: Page) -> None:
        """`page` makes the errors below the path `pages_below`, where people read them."""
        self._app = app
        self._pages_below = pages_below
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app: ASGIApp = self._app
        if refusal := _refusal(scope):
            app = self._refused(scope, refusal)
        inner = {**scope, "method": "GET", HEAD_ONLY: True} if scope["method"] == "HEAD" else scope
        ended = False

        async def answer(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                if inner is not scope and "route" in inner:
                    scope["route"] = inner["route"]  # the outer middleware looks for it there
                if message["status"] in _LAST:
                    message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
                await send(message)
                if inner is not scope:
                    ended = True
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif not ended:
                await send(message)

        await app(inner, receive, answer)

    def _refused(self, scope: Scope, refusal: Refusal) -> ASGIApp:
        request = Request(scope)
        if f"{scope['path']}/".startswith(f"{self._pages_below}/"):
            return self._page(request, refusal.status, f"{refusal.message}.", refusal.headers)
        return problem(request, refusal.status, refusal.message, kind=refusal.kind, headers=refusal.headers)


def _refusal(scope: Scope) -> Refusal | None:
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
            return Refusal(
                415,
                "Content-Encoding: encoded bodies are not accepted; send the body unencoded",
                "UnsupportedMediaType",
                {"Accept-Encoding": "identity"},  # RFC 9110, 15.5.16
            )
    return None


def _ambiguous(message: str) -> Refusal:
    return Refusal(400, message, "InvalidRequest", {"Connection": "close"})


def _has_body(scope: Scope) -> bool:
    headers: dict[bytes, Any] = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""


class Admission:
    """Refuse sign-ins that exceed the limits before they reach the framework, and pace all refusals (429).

    Here a guess costs half as much as further inside, and takes no thread. Callers who retry as fast as they are
    refused would still fill each turn of the event loop, of which every request needs several. At 200 refusals a second
    they take a small part of a core, and other callers are answered in between.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator
        self._next_refusal = 0.0
        """When the next refusal is due, by the event loop's clock."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_turn(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 429:
                await self._turn()
            await send(message)

        app = await self._refusal(scope) or self._app
        await app(scope, receive, send_in_turn)

    async def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a sign-in that exceeds the limits; None if the framework has to handle the request."""
        # Every route below this path needs a login. A request with an API key has a signature, which is no guess.
        if not scope["path"].startswith(f"{API}/users/") or b"apiKey=" in scope["query_string"]:
            return None
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if given is None:
            return None
        request = Request(scope)
        try:
            await self._authenticator.check_admission(given.decode("latin-1"), address(request))
        except TooMany as error:
            headers = {"Retry-After": str(error.retry_after_seconds)}
            return problem(request, 429, str(error), kind=type(error).__name__, headers=headers)
        return None

    async def _turn(self) -> None:
        """Wait until this refusal may be sent. A few are sent at once."""
        now = asyncio.get_running_loop().time()
        due = min(max(now, self._next_refusal), now + _WAIT_SECONDS_MAX)
        self._next_refusal = due + 1 / _REFUSALS_PER_SECOND
        await asyncio.sleep(due - now)
