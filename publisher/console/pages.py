"""The console as an application that the intake mounts, so that its errors are pages, with words and a way back."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from publisher.console.live_updates import Streams
from publisher.console.page_request import page, protected
from publisher.console.rendering import BASE, sentence
from publisher.console.routes import (
    accounts,
    audit,
    fleet,
    images,
    keys,
    publication,
    publications,
    publishing,
    session,
    users,
)
from publisher.web import error_handlers
from publisher.web.error_handlers import Problem
from publisher.web.request import Services, count_address

MODULES = (
    publishing, publications, publication, images, accounts, keys, fleet, users, audit,
)  # fmt: skip
"""The modules of pages; each has a `router`. Fixed paths come before numbered ones: `/images/new` is no image's number.

The entries of the navigation are in `navigation.py`.
"""

_TITLES = {
    400: "Invalid request",
    403: "Access denied",
    404: "Page not found",
    405: "Page not found",
    409: "Not possible now",
    413: "Too large",
    415: "Unsupported content",
    416: "Range not available",
    429: "Too many requests",
    500: "Something went wrong",
    503: "Temporarily unavailable",
}

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def mount(app: FastAPI, services: Services) -> Streams:
    """Mount the console in the app. Close the returned streams when the server stops."""
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
    error_handlers.install(console, _error_page)
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
    return _error_page(request, Problem(status, words, "", headers))


def _error_page(request: Request, problem: Problem) -> Response:
    if problem.status == 401:
        return _to_sign_in(request)
    shown = page(
        request,
        "error.html",
        status=problem.status,
        visit=getattr(request.state, "visit", None),
        number=problem.status,
        title=_TITLES.get(problem.status, _TITLES[500]),
        words=problem.page_message or sentence(problem.message),
    )
    shown.headers.update(problem.headers)
    return shown


def _to_sign_in(request: Request) -> Response:
    """Redirect to the sign-in page, and from there back to this page. A change must be requested again."""
    if request.method != "GET":
        return RedirectResponse(f"{BASE}/sign-in", 303)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{BASE}/sign-in?{urlencode({'next': wanted})}", 303)


async def _home(_: Request) -> Response:
    return RedirectResponse(f"{BASE}/publications", 303)


async def _root(request: Request) -> Response:
    """Redirect browsers to the console; for programs there is nothing here."""
    if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)
    return RedirectResponse(BASE, 303)


def _nothing(path: str) -> Response:
    raise HTTPException(404)
