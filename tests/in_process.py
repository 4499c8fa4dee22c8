"""A fast client for an ASGI app in the same process.

For each request, Starlette's own client calls the app's event loop, in another thread, seven times. Without a lifespan
it makes a new loop for each request. This client calls the loop once, and several clients can share a loop.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import MutableMapping
from functools import cache
from typing import Any
from urllib.parse import unquote

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.types import ASGIApp

with warnings.catch_warnings():
    # Starlette warns that it prefers httpx2, a fork of the httpx that we use.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

_PORTS = {"http": 80, "https": 443}


class InProcess(TestClient):
    """Like Starlette's `TestClient`, for finite answers only. An error of the app becomes a 500 and is not raised."""

    def __init__(
        self, app: ASGIApp, *, base_url: str = "http://testserver", portal: BlockingPortal | None = None
    ) -> None:
        """With the `portal` of another client, this client shares that client's event loop and needs no `with`."""
        super().__init__(app, base_url=base_url, follow_redirects=False, raise_server_exceptions=False)
        self.portal = portal
        self._transport = _InOneCall(self)

    def exchange(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer. No cookies are kept."""
        response = self._transport.handle_request(request)
        response.read()
        return response


class _InOneCall(httpx.BaseTransport):
    def __init__(self, client: InProcess) -> None:
        self._client = client
        self._loop = cache(lambda portal: portal.call(asyncio.get_running_loop))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(self._client.app, request, self._client.app_state)
        if self._client.portal is not None:
            # `portal.call` waits for the loop twice: until the task has begun, and until it has ended.
            asyncio.run_coroutine_threadsafe(exchange.run(), self._loop(self._client.portal)).result()
        else:
            with start_blocking_portal() as portal:
                portal.call(exchange.run)
        return exchange.response()


class _Exchange:
    """A request and its answer."""

    def __init__(self, app: ASGIApp, request: httpx.Request, state: dict[str, Any]) -> None:
        self._app = app
        self._request = request
        self._body = request.read()
        self._state = state
        self._given = False
        self._complete = asyncio.Event()
        self._start: MutableMapping[str, Any] = {"status": 500}
        self._pieces: list[bytes] = []

    async def run(self) -> None:
        try:
            await self._app(self._scope(), self._receive, self._send)
        except Exception:
            # The app has answered already. It raises the error only for the server's log.
            return

    def response(self) -> httpx.Response:
        headers = [(name.decode(), value.decode()) for name, value in self._start.get("headers", [])]
        body = b"" if self._request.method == "HEAD" else b"".join(self._pieces)
        # A stream, because httpx adds its own headers for `content`.
        return httpx.Response(
            self._start["status"], headers=headers, stream=httpx.ByteStream(body), request=self._request
        )

    def _scope(self) -> dict[str, Any]:
        url = self._request.url
        return {
            "type": "http",
            "http_version": "1.1",
            "method": self._request.method,
            "path": unquote(url.path),
            "raw_path": url.raw_path.split(b"?", 1)[0],
            "root_path": "",
            "scheme": url.scheme,
            "query_string": url.query,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "client": ("testclient", 50000),
            "server": [url.host, url.port or _PORTS[url.scheme]],
            "extensions": {},
            "state": self._state.copy(),
        }

    async def _receive(self) -> dict[str, Any]:
        if self._given:
            await self._complete.wait()
            return {"type": "http.disconnect"}
        self._given = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert "headers" not in self._start, "a second http.response.start"
            self._start = {"headers": [], **message}
        else:
            assert message["type"] == "http.response.body"
            assert "headers" in self._start, "a body before its http.response.start"
            assert not self._complete.is_set(), "more of a body that was complete"
            self._pieces.append(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self._complete.set()
