"""The intake as an ASGI application; `publisher.intake.server` serves it."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import cast

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State
from starlette.routing import Router as LifespanRouter
from starlette.types import Receive, Scope, Send

from publisher.console import pages as console
from publisher.console.live_updates import Streams
from publisher.core.garbage import collect_rarely
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.files import unfinished
from publisher.intake.error_documents import error_document
from publisher.intake.long_poll import Watcher
from publisher.intake.middleware import RequestHandler
from publisher.intake.openapi import document
from publisher.intake.routes import about, appliances, images, monitoring, pimages, targets, users
from publisher.outbound.policy import OutboundPolicy
from publisher.services.wakeups import Sender, WakeQueue, Wakeups
from publisher.store import Store
from publisher.telemetry import logs, tracing
from publisher.web import (
    API,
    Authenticator,
    CheckResults,
    Route,
    Router,
    Services,
    Throttle,
    count_address,
    keep_signatures_out_of_logs,
)


def create_app(settings: Settings | None = None, waker: Sender | None = None) -> Intake:
    """Create the intake: the API and the console.

    Raises `ConfigurationError` if the database, the key or a setting is not right.
    """
    if settings is None:
        # This process is the intake, so it configures the logs. A test that creates the app does not want that.
        settings = Settings.from_environment()
        logs.configure(settings)
    store = Store.open(settings)
    store.check_schema()
    queue = WakeQueue.open(settings)
    vault = Vault.from_file(settings.key_file, production=settings.production)
    watcher = Watcher(store)
    throttle = Throttle.from_settings(settings, store.audit)
    keep_signatures_out_of_logs()

    def stop() -> None:
        watcher.close()
        check_results.close()
        streams.close()

    @asynccontextmanager
    async def lifespan(_: Intake) -> AsyncIterator[None]:
        _allow_connections()
        collect_rarely()
        with suppress(SQLAlchemyError):  # the reconciler does so later
            await run_in_threadpool(unfinished.discard_abandoned, settings.images, store.images.has_file)
        with _on_signal_to_stop(stop):
            yield
        stop()
        queue.close()
        store.close()
        tracing.close()

    services = Services(
        settings=settings,
        store=store,
        sealer=vault,
        wakeups=Wakeups(store, waker or queue),
        authenticator=Authenticator(store, settings.credential_cache_seconds, vault, throttle.sign_ins),
        throttle=throttle,
        policy=OutboundPolicy.of(settings),
    )
    check_results = CheckResults(store, services.wakeups)
    streams = Streams(settings.console_streams_max)
    tracing.configure("intake")
    app = Intake(services, lifespan)
    app.state.watcher = watcher
    app.state.check_results = check_results
    app.state.monitoring = monitoring.MonitoringState.of(services)
    app.state.streams = streams
    return app


class Intake:
    """The app: its routes, and the layer around them."""

    def __init__(
        self, services: Services, lifespan: Callable[[Intake], AbstractAsyncContextManager[None]] | None = None
    ) -> None:
        self.state = State()
        """Holds what the routes work with."""
        self.state.services = services
        self.router = Router(first=count_address if services.settings.address_requests_per_second else None)
        # The OpenAPI document has this order, too.
        api = (about, pimages, images, appliances)
        for each in (*(module.router for module in api), users.credentials_router, targets.router, users.router):
            self.router.include(each, API)
        self.router.include(about.docs_router)
        self.router.include(monitoring.router)
        self.router.include(console.router())
        self._others = LifespanRouter(lifespan=lifespan)
        self._handler = RequestHandler(
            self.router,
            services.authenticator,
            document=error_document,
            page=console.error_page,
            pages_below=console.PAGES_BELOW,
            production=services.settings.production,
        )
        self._openapi: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] == "http":
            await self._handler(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    @property
    def routes(self) -> list[Route]:
        return self.router.routes

    def openapi(self) -> bytes:
        """Return the OpenAPI document. It is made when it is first wanted."""
        if self._openapi is None:
            public_url = cast(Services, self.state.services).settings.public_url
            made = document(self.router.routes, f"{public_url.rstrip('/')}{API}")
            self._openapi = json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()
        return self._openapi


def _allow_connections() -> None:
    """Raise the limit of open files: each waiting caller has a connection, and most systems allow only 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _on_signal_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the event loop as soon as the server gets a signal to end.

    Uvicorn informs the app only after all requests are answered, including those of callers that wait for a change.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, handler)
