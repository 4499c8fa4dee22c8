"""The intake as an ASGI application: `uvicorn --factory publisher.intake.app:create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from publisher.core.queue import WakeQueue
from publisher.core.settings import Settings
from publisher.core.store import Store
from publisher.core.vault import Vault
from publisher.intake import problems
from publisher.intake.auth import Authenticator, keep_signatures_out_of_logs
from publisher.intake.exchange import API, Services, Wakers
from publisher.intake.routes import (
    accounts,
    apikeys,
    appliances,
    downloads,
    images,
    pimages,
    registrations,
    schema,
    status,
    targets,
    users,
)
from publisher.version import __version__


def create_app(settings: Settings | None = None, waker: Wakers | None = None) -> FastAPI:
    """Raises `ConfigurationError` where the database or the key is not set up."""
    settings = settings or Settings.from_environment()
    store = Store.open(settings)
    store.check_schema()
    queue = WakeQueue.open(settings)
    vault = Vault.from_file(settings.key_file, production=settings.production)
    keep_signatures_out_of_logs()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()
        store.close()

    app = FastAPI(
        title="Image publisher",
        version=__version__,
        lifespan=lifespan,
        # Both would load their pages' parts from other hosts.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = Services(
        settings=settings,
        store=store,
        sealer=vault,
        waker=waker or queue,
        authenticator=Authenticator(store, settings.credential_cache_seconds, vault),
    )
    app.add_middleware(OneSlash)
    problems.install(app)
    for module in (
        status, schema, pimages, images, registrations, downloads, appliances, accounts, targets, apikeys, users,
    ):  # fmt: skip
        app.include_router(module.router, prefix=API)
    return app


class OneSlash:
    """Takes `/api//status` for `/api/status`: so a client writes it whose base URL ends with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{API}//"):
            scope = {**scope, "path": API + scope["path"][len(API) + 1 :]}
        await self._app(scope, receive, send)
