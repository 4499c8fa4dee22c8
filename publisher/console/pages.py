"""The console as an application that the intake mounts, so that its errors are pages."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from publisher.console import BASE, error_pages
from publisher.console.live_updates import Streams
from publisher.console.page_request import protected
from publisher.console.routes import (
    accounts,
    audit,
    fleet,
    images,
    keys,
    profile,
    publication,
    publications,
    publishing,
    registering,
    roles,
    session,
    users,
)
from publisher.core.errors import NotFound
from publisher.web.request import Services, count_address

MODULES = (
    publishing, publications, publication, registering, images, accounts, keys, fleet, users, roles, audit, profile,
)  # fmt: skip
"""The modules of pages; each has a `router`. Fixed paths come before numbered ones: `/images/new` is no image's number.

The entries of the navigation are in `navigation.py`.
"""

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def mount(app: FastAPI, services: Services) -> Streams:
    """Mount the console in the app. Close the returned streams when the server is told to stop."""
    console = FastAPI(
        title="Console",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The app that mounts this counts requests only for its own routes.
        dependencies=[Depends(count_address)] if services.settings.address_requests_per_second else [],
    )
    streams = Streams(services.settings.console_streams_max)
    console.state.services = services
    console.state.streams = streams
    error_pages.install(console)
    console.mount("/static", StaticFiles(packages=[("publisher.console", "static")]))
    console.include_router(session.router)
    for router in (session.signed_in_router, *(module.router for module in MODULES)):
        console.include_router(router, dependencies=[Depends(protected)])
    # Sign-in comes first even for unknown paths, so that strangers cannot find out which pages exist.
    console.add_api_route("/{path:path}", _nothing, dependencies=[Depends(protected)])
    app.add_route(BASE, _home)
    app.add_route("/", _root, methods=_METHODS)
    app.mount(BASE, console)
    return streams


def refusal(request: Request, status: int, words: str, headers: Mapping[str, str]) -> ASGIApp:
    """Return the page for a request that is refused before it reaches the console."""
    shown = error_pages.error_page(request, status, words)
    shown.headers.update(headers)
    return shown


async def _home(_: Request) -> Response:
    return RedirectResponse(f"{BASE}/publications", 303)


async def _root(request: Request) -> Response:
    """Redirect browsers to the console; for programs there is nothing here."""
    if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)
    return RedirectResponse(BASE, 303)


def _nothing(path: str) -> Response:
    raise NotFound("The address may be mistyped, or what it named may be gone.")
