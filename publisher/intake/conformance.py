"""What HTTP asks of every route alike (RFC 9110, RFC 9112), around all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from publisher.intake.error_documents import problem
from publisher.web.request import HEAD_ONLY

_CLOSE = (b"connection", b"close")
_LAST = (408, 500)
"""Statuses after which the connection is of no more use: the rest of the request, or our own state, is in doubt."""

Page = Callable[[Request, int, str, Mapping[str, str]], ASGIApp]


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    message: str
    kind: str
    headers: dict[str, str]


class Conformance:
    """Answers HEAD as GET without the body, refuses bodies that cannot be told apart or are encoded, and closes the
    connection where nobody knows how to go on."""

    def __init__(self, app: ASGIApp, *, pages_below: str, page: Page) -> None:
        """Below the path `pages_below` people read the errors: `page` makes them."""
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
                    scope["route"] = inner["route"]  # where those around look for it
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
        # Two who read it differently would take a part of one request for another (RFC 9112, 6.1 and 11.2).
        if b"content-length" in names:
            return _ambiguous("Content-Length and Transfer-Encoding: send one of them, not both")
        if scope.get("http_version") == "1.0":
            return _ambiguous("Transfer-Encoding: HTTP/1.0 has none; send Content-Length")
    if b"content-encoding" in names and _has_body(scope):
        codings = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding")
        if any(coding.strip().lower() not in ("", "identity") for coding in codings.split(",")):
            return Refusal(
                415,
                "Content-Encoding: encoded bodies are not accepted; send it unpacked",
                "UnsupportedMediaType",
                {"Accept-Encoding": "identity"},  # RFC 9110, 15.5.16
            )
    return None


def _ambiguous(message: str) -> Refusal:
    return Refusal(400, message, "InvalidRequest", {"Connection": "close"})


def _has_body(scope: Scope) -> bool:
    headers: dict[bytes, Any] = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""
