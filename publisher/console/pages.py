"""The routes of the console, and its errors, which are pages with words and a way back."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from publisher.console.page_request import page, page_router
from publisher.console.rendering import BASE, sentence
from publisher.console.routes import accounts, audit, fleet, images, publications, publish, users
from publisher.web import Problem, Router

MODULES = (
    publish, publications, images, accounts, fleet, users, audit,
)  # fmt: skip
"""The modules of pages; each has a `router`. Fixed paths come before numbered ones: `/images/new` is no image's number.

The entries of the navigation are in `page_request.py`.
"""

PAGES_BELOW = BASE
"""The path below which errors are pages, too."""

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

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def router() -> Router:
    """Return the routes of the console."""
    console = Router()
    console.mount("/static", StaticFiles(packages=[("publisher.console", "static")]))
    console.include(users.sign_in_router)
    for module in MODULES:
        console.include(module.router)
    # Sign-in comes first even for unknown paths, so that strangers cannot find out which pages exist.
    unknown = page_router()
    unknown.get("/{path:path}")(_nothing)
    console.include(unknown)
    outside = Router()
    outside.get(BASE)(_home)
    for method in _METHODS:
        outside.add("/", method, _root)
    outside.include(console, BASE)
    return outside


def error_page(request: Request, problem: Problem) -> Response:
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


async def _home() -> Response:
    return RedirectResponse(f"{BASE}/publications", 303)


async def _root(request: Request) -> Response:
    """Redirect browsers to the console; for programs there is nothing here."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)
    return RedirectResponse(BASE, 303)


async def _nothing(path: str) -> Response:
    raise HTTPException(404)
