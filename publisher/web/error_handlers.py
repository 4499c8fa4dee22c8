"""Handle errors: choose the status, the words and the headers, the same for documents and pages.

The API and the console differ only in how they render a `Problem`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from publisher.core.errors import (
    Conflict,
    ImageTooLarge,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    PublisherError,
    TooMany,
)
from publisher.web.body_limits import BodyTooLarge
from publisher.web.negotiation import NotAcceptable, UnsupportedMediaType

logger = logging.getLogger(__name__)

_REALM = 'Basic realm="image publisher", charset="UTF-8"'
_STORE_RETRY_SECONDS = 5
_GONE = "The address may be wrong, or what it names may have been deleted."


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a request, before it is rendered."""

    status: int
    message: str
    kind: str
    """For programs: it stays the same when the message changes."""
    headers: Mapping[str, str] = field(default_factory=dict)
    page_message: str = ""
    """A sentence for people in place of `message`, if theirs differs."""


Renderer = Callable[[Request, Problem], Response]


class TooSlow(PublisherError):
    """The request did not arrive in time."""


class NoRoom(PublisherError):
    """There is no room for the image, and nothing of it was kept; try again later."""

    retry_after_seconds = 300


class RangeNotSatisfiable(PublisherError):
    """The file has none of the bytes that the request asks for."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"Range: the file has {size_bytes} bytes")
        self.content_range = f"bytes */{size_bytes}"


_STATUS: list[tuple[type[PublisherError], int]] = [
    (BodyTooLarge, 413),
    (ImageTooLarge, 413),
    (InvalidRequest, 400),
    (NotAuthenticated, 401),
    (NotAllowed, 403),
    (NotFound, 404),
    (NotAcceptable, 406),
    (TooSlow, 408),
    (Conflict, 409),
    (UnsupportedMediaType, 415),
    (RangeNotSatisfiable, 416),
    (TooMany, 429),
    (NoRoom, 503),
]


def status_of(error: Exception) -> int:
    """Return the HTTP status of one of our errors; 500 if no caller can do anything about it."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def install(app: FastAPI, render: Renderer) -> None:
    """Answer every error of the app with a rendered `Problem`, including the framework's own errors."""

    def handle(kind: type[Exception], describe: Callable[[Request, Exception], Problem]) -> None:
        async def answer(request: Request, error: Exception) -> Response:
            return render(request, describe(request, error))

        app.add_exception_handler(kind, answer)

    handle(PublisherError, _publisher_error)
    handle(HTTPException, _framework_error)
    handle(RequestValidationError, _invalid_parameter)
    handle(SQLAlchemyError, _store_error)
    handle(ClientDisconnect, _incomplete)
    handle(Exception, _unexpected)


def _publisher_error(request: Request, error: Exception) -> Problem:
    status = status_of(error)
    if status == 500:
        return _unexpected(request, error)
    headers = {"WWW-Authenticate": _REALM} if status == 401 else {}
    if isinstance(error, TooMany | NoRoom):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = error.content_range
    return Problem(status, str(error), type(error).__name__, headers)


def _framework_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, HTTPException)  # noqa: S101  # it handles nothing else
    match error.status_code:
        case 404:
            return _no_such_resource()
        case 405:
            message, kind = f"{request.method} is not allowed here", "MethodNotAllowed"
            return Problem(405, message, kind, {"Allow": ", ".join(_allowed_methods(request))}, page_message=_GONE)
        case status:
            return Problem(status, HTTPStatus(status).phrase, "HttpError", error.headers or {}, page_message=_GONE)


def _invalid_parameter(request: Request, error: Exception) -> Problem:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # likewise
    if all(each["loc"][0] == "path" for each in error.errors()):
        return _no_such_resource()
    names = ", ".join(".".join(str(part) for part in each["loc"][1:]) for each in error.errors())
    return Problem(400, f"{names}: is not valid", "InvalidRequest", page_message=f"{names} is not valid.")


def _store_error(request: Request, error: Exception) -> Problem:
    logger.error("the ticket store did not answer: %s", type(error).__name__)
    return Problem(
        503,
        "the ticket store does not answer; nothing was accepted, try again",
        "StoreUnavailable",
        {"Retry-After": str(_STORE_RETRY_SECONDS)},
        page_message="The ticket store does not answer. Nothing was changed; try again in a moment.",
    )


def _incomplete(request: Request, error: Exception) -> Problem:
    """Describe a request whose caller hung up before it was complete. Nobody reads this."""
    return Problem(400, "the request body ended too early", "InvalidRequest")


def _unexpected(request: Request, error: Exception) -> Problem:
    logger.error("unexpected", exc_info=error)
    return Problem(
        500,
        "an unexpected error occurred; the intake's log has the details",
        "InternalError",
        page_message="This is a bug in the publisher. The intake's log has the details.",
    )


def _no_such_resource() -> Problem:
    return Problem(404, "there is no such resource", "NotFound", page_message=_GONE)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of the request's path. The framework knows only those of the first route that matches."""
    allowed = [
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.router.routes
        )
    ]
    return ["GET", "HEAD", *allowed[1:]] if "GET" in allowed else allowed
