"""Headers that every answer has: what a browser must not do with it. An answer that has one of them keeps its own."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_Headers = list[tuple[bytes, bytes]]

_ALWAYS: _Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    # Documents for programs and images of disks: a browser is to load and run nothing in their name.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # May be kept by the caller's own cache alone, and is asked for again each time: 304 then.
    (b"cache-control", b"private, no-cache"),
]
_BY_TLS: _Headers = [(b"strict-transport-security", b"max-age=31536000")]


class SecurityHeaders:
    """`production`: a browser that has come by https once never comes by http again."""

    def __init__(self, app: ASGIApp, *, production: bool) -> None:
        self._app = app
        self._secure = _ALWAYS + _BY_TLS if production else _ALWAYS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = self._secure if scope["scheme"] == "https" else _ALWAYS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: _Headers = list(message["headers"])
                there = {name.lower() for name, _ in headers}
                message = {**message, "headers": headers + [each for each in wanted if each[0] not in there]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
