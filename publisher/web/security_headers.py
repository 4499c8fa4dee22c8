"""The headers that tell a browser what it must not do with an answer: one set for documents, one for pages."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALL = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_DOCUMENT = {
    **_ALL,
    "Referrer-Policy": "no-referrer",
    # Programs read documents and disk images. A browser must not load or run anything because of them.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Only the caller's own cache may keep an answer, and must ask each time whether it is still current (304).
    "Cache-Control": "private, no-cache",
}
_PAGE = {
    **_ALL,
    # The console's forms send their origin; other hosts get none.
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC_CACHE = "public, max-age=31536000, immutable"
"""The paths of static files change with their content, so browsers may keep the files."""
_BY_TLS = {"Strict-Transport-Security": "max-age=31536000"}


class SecurityHeaders:
    """Middleware around the whole app.

    What is below the path `pages_below` is a page and gets exactly these headers. Anything else is a document and
    keeps the headers that its route has set. With `production`, a browser that has come by HTTPS never uses HTTP again.
    """

    def __init__(self, app: ASGIApp, *, pages_below: str, production: bool) -> None:
        self._app = app
        self._pages_below = f"{pages_below}/"
        self._production = production

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(MutableHeaders(scope=message), scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _complete(self, headers: MutableHeaders, scope: Scope, status: int) -> None:
        if f"{scope['path']}/".startswith(self._pages_below):
            headers.update(_PAGE)
            if status == 200 and scope["path"].startswith(f"{self._pages_below}static/"):
                headers["Cache-Control"] = _STATIC_CACHE
        else:
            _set_missing(headers, _DOCUMENT)
        if self._production and scope["scheme"] == "https":
            _set_missing(headers, _BY_TLS)


def _set_missing(headers: MutableHeaders, wanted: dict[str, str]) -> None:
    for name, value in wanted.items():
        headers.setdefault(name, value)
