"""Show errors as pages.

Programs get documents (`publisher.intake.error_documents`); people get words and a way back.
"""

from __future__ import annotations

import logging
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from publisher.console import BASE
from publisher.console.page_request import page
from publisher.console.template_filters import sentence
from publisher.core.errors import NotAuthenticated, PublisherError
from publisher.web.error_status import STORE_RETRY_SECONDS, RangeNotSatisfiable, allowed_methods, status_of

logger = logging.getLogger(__name__)

_TITLES = {
    400: "That cannot be done as it was asked",
    403: "You may not do this",
    404: "There is no such page",
    405: "There is no such page",
    409: "That is not possible now",
    413: "That is too large",
    415: "That cannot be read",
    416: "The file has no such part",
    429: "Too many at a time",
    500: "Something went wrong",
    503: "The ticket store does not answer",
}


def install(console: FastAPI) -> None:
    console.add_exception_handler(PublisherError, _publisher_error)
    console.add_exception_handler(HTTPException, _framework_error)
    console.add_exception_handler(RequestValidationError, _invalid_path)
    console.add_exception_handler(SQLAlchemyError, _store_error)
    console.add_exception_handler(ClientDisconnect, _gone)
    console.add_exception_handler(Exception, _unexpected)


def error_page(request: Request, status: int, words: str, *, retry_after_seconds: float | None = None) -> Response:
    visit = getattr(request.state, "visit", None)
    title = _TITLES.get(status, _TITLES[500])
    shown = page(request, "error.html", status=status, visit=visit, number=status, title=title, words=words)
    if retry_after_seconds is not None:
        shown.headers["Retry-After"] = str(int(retry_after_seconds))
    return shown


async def _publisher_error(request: Request, error: Exception) -> Response:
    if isinstance(error, NotAuthenticated):
        return _to_sign_in(request)
    status = status_of(error)
    if status == 500:
        return await _unexpected(request, error)
    shown = error_page(
        request, status, sentence(str(error)), retry_after_seconds=getattr(error, "retry_after_seconds", None)
    )
    if isinstance(error, RangeNotSatisfiable):
        shown.headers["Content-Range"] = error.content_range
    return shown


def _to_sign_in(request: Request) -> Response:
    """Redirect to the sign-in page, and from there back to this page. A change must be requested again."""
    if request.method != "GET":
        return RedirectResponse(f"{BASE}/sign-in", 303)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{BASE}/sign-in?{urlencode({'next': wanted})}", 303)


async def _framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is installed for
    shown = error_page(request, error.status_code, "The address may be mistyped, or what it named may be gone.")
    if error.status_code == 405:
        shown.headers["Allow"] = ", ".join(allowed_methods(request))
    return shown


async def _invalid_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # likewise
    at_fault = next((each for each in error.errors() if each["loc"][0] != "path"), None)
    if at_fault is None:
        return error_page(request, 404, "The address may be mistyped, or what it named may be gone.")
    return error_page(request, 400, f"{at_fault['loc'][-1]} is not valid.")


async def _store_error(request: Request, error: Exception) -> Response:
    logger.error("the ticket store did not answer: %s", type(error).__name__)
    words = "Nothing was changed. Try again in a moment."
    return error_page(request, 503, words, retry_after_seconds=STORE_RETRY_SECONDS)


async def _gone(request: Request, error: Exception) -> Response:
    return error_page(request, 400, "The form did not arrive as a whole.")


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("unexpected", exc_info=error)
    return error_page(request, 500, "This is a mistake in the publisher; the intake's log tells more.")
