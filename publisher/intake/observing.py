"""What is noted of each request: the id under which the logs, here and in the workers, name it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from publisher.core.logs import bound, request_id

REQUEST_ID = b"x-request-id"


class Observed:
    """Around everything else, so that each answer tells its id, whatever has made it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        id = request_id(given.decode("latin-1"))
        scope.setdefault("state", {})["request_id"] = id

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, id.encode())]
            await send(message)

        with bound(request_id=id):
            await self._app(scope, receive, answer)
