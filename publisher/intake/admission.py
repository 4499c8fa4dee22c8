"""Refuses sign-ins that have no room before they reach the framework, and refuses nobody faster than others can bear.

A guess costs half as much here as further inside, and takes no thread. Callers who try again as fast as they are
refused would still fill each turn of the event loop, of which every request needs several. So refusals (429) have a
pace: at 200 a second they take a small part of a core, and all other callers are answered in between.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from publisher.core.errors import TooMany
from publisher.intake.error_documents import problem
from publisher.web.auth import Authenticator
from publisher.web.request import API, address

_REFUSALS_PER_SECOND = 200
_WAIT_SECONDS_MAX = 1.0


class Admission:
    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator
        self._next_refusal = 0.0
        """When the next one is due, by the event loop's clock."""

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
        """The answer to a sign-in for which there is no room; None where the framework has to look at the request."""
        # Whatever is below has to be signed in to. What names an API key stands by its signature, which is no guess.
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
        """Wait until this refusal may go. A few at a time go at once."""
        now = asyncio.get_running_loop().time()
        due = min(max(now, self._next_refusal), now + _WAIT_SECONDS_MAX)
        self._next_refusal = due + 1 / _REFUSALS_PER_SECOND
        await asyncio.sleep(due - now)
