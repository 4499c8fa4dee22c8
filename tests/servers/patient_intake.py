"""The service's intake, but callers may wait for an hour, and it reports how many are waiting.

So callers that arrive one after another on a slow machine still wait at the same time. Run it in place of
`publisher.intake.server`, with the same options.
"""

from __future__ import annotations

import sys

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from uvicorn.main import main

from publisher import app as real
from publisher.intake import long_poll, server

WAIT_SECONDS = 3600
WAITING = "/how-many-wait"


def create_app() -> real.Intake:
    long_poll.WAIT_MAX_SECONDS = WAIT_SECONDS
    app = real.create_app()

    @app.router.get(WAITING)
    async def how_many(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(request.app.state.watcher)))

    return app


if __name__ == "__main__":
    apps = {"publisher.app:create_app": "tests.servers.patient_intake:create_app"}
    main([*(apps.get(each, each) for each in server.OPTIONS), *sys.argv[1:]])
