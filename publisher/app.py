"""The intake as an ASGI application; `publisher.intake.server` serves it."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any, cast

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.telemetry import TelemetryConfig
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from publisher.console import pages as console
from publisher.console.rendering import BASE
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.files import unfinished
from publisher.intake.error_documents import error_document
from publisher.intake.long_poll import Watcher
from publisher.intake.middleware import Admission, Conformance
from publisher.intake.openapi import document
from publisher.intake.request_metrics import Observed
from publisher.intake.routes import (
    accounts,
    api_description,
    apikeys,
    appliances,
    images,
    monitoring,
    pimages,
    status,
    targets,
    users,
)
from publisher.outbound.policy import OutboundPolicy
from publisher.services.wakeups import Sender, WakeQueue, Wakeups
from publisher.store import Store
from publisher.telemetry import logs, tracing
from publisher.version import __version__
from publisher.web import error_handlers
from publisher.web.auth import Authenticator, keep_signatures_out_of_logs
from publisher.web.rate_limits import Throttle
from publisher.web.request import API, Services, count_address
from publisher.web.security_headers import SecurityHeaders


def create_app(settings: Settings | None = None, waker: Sender | None = None) -> FastAPI:
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
    observed = monitoring.MonitoringState.of(store, settings)
    keep_signatures_out_of_logs()

    def stop() -> None:
        watcher.close()
        streams.close()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _allow_connections()
        _collect_rarely()
        with suppress(SQLAlchemyError):  # the reconciler does so later
            await run_in_threadpool(unfinished.discard_abandoned, settings.images, store.images.has_file)
        with _on_signal_to_stop(stop):
            yield
        stop()
        queue.close()
        store.close()
        tracing.close()

    app = Intake(
        title="Image publisher",
        version=__version__,
        lifespan=lifespan,
        # routes/api_description.py serves the docs. The framework's own pages would load their parts from other hosts.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(count_address)] if settings.address_requests_per_second else [],
        telemetry=_telemetry(),
    )
    app.state.services = Services(
        settings=settings,
        store=store,
        sealer=vault,
        wakeups=Wakeups(store, waker or queue),
        authenticator=Authenticator(store, settings.credential_cache_seconds, vault, throttle.sign_ins),
        throttle=throttle,
        policy=OutboundPolicy.of(settings),
    )
    app.state.watcher = watcher
    app.state.monitoring = observed
    app.add_middleware(OneSlash)
    error_handlers.install(app, error_document)
    for module in (status, api_description, pimages, images, appliances, accounts, apikeys, targets, users):
        app.include_router(module.router, prefix=API)
    app.include_router(api_description.page_router)
    app.include_router(monitoring.router)
    streams = console.mount(app, app.state.services)
    return app


class Intake(FastAPI):
    """The app. Its OpenAPI document comes from our own tables, because the framework does not know the documents."""

    def build_middleware_stack(self) -> ASGIApp:
        # Outside of the framework's own middleware, so that its answer to an unexpected error has headers and id, too.
        made = cast(Services, self.state.services)
        app: ASGIApp = Admission(super().build_middleware_stack(), made.authenticator)
        app = Conformance(app, pages_below=BASE, page=console.refusal)
        return Observed(SecurityHeaders(app, pages_below=BASE, production=made.settings.production))

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            public_url = cast(Services, self.state.services).settings.public_url
            self.openapi_schema = document(self.routes, f"{public_url.rstrip('/')}{API}")
        return self.openapi_schema


def _telemetry() -> TelemetryConfig:
    """Configure the framework's telemetry: only spans, if tracing is configured."""
    provider = tracing.configure("intake")
    return {
        "tracing": provider is not None,
        "tracer_provider": provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
    }


def _collect_rarely() -> None:
    """Make garbage collections rare.

    Thousands of waiting callers are hundreds of thousands of live objects. Scanning them takes a sixth of the time of a
    request.
    """
    gc.set_threshold(100_000, 50, 1000)


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


class OneSlash:
    """Treats `/api//status` as `/api/status`, which clients send if their base URL ends with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{API}//"):
            # In place, because the middleware around this one looks in this scope for the route.
            scope["path"] = API + scope["path"][len(API) + 1 :]
        await self._app(scope, receive, send)
