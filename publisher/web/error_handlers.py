"""Describe errors: choose the status, the words and the headers, the same for documents and pages.

The API and the console differ only in how they render a `Problem`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from publisher.core.errors import (
    BodyTooLarge,
    Conflict,
    ImageTooLarge,
    InvalidRequest,
    NotAcceptable,
    NotAllowed,
    NotAuthenticated,
    NotChecked,
    NotFound,
    PublisherError,
    TooMany,
    UnknownElement,
    UnsupportedMediaType,
)
from publisher.web.preferences import APPLIED, STRICT

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


class InvalidQuery(InvalidRequest):
    """A parameter of the query is not valid."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("is not valid", field=", ".join(names))


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
    (NotChecked, 503),
]


def status_of(error: Exception) -> int:
    """Return the HTTP status of one of our errors; 500 if no caller can do anything about it."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def describe(request: Request, error: Exception) -> Problem:
    """Describe any error that is raised while a request is answered."""
    match error:
        case InvalidQuery():
            return Problem(400, str(error), "InvalidRequest", page_message=f"{error.field} is not valid.")
        case PublisherError():
            return _publisher_error(error)
        case HTTPException():
            return _no_route(request, error)
        case SQLAlchemyError():
            return _store_error(error)
        case ClientDisconnect():
            # The caller hung up before the request was complete. Nobody reads this.
            return Problem(400, "the request body ended too early", "InvalidRequest")
        case _:
            return _unexpected(error)


def _publisher_error(error: PublisherError) -> Problem:
    status = status_of(error)
    if status == 500:
        return _unexpected(error)
    headers = {"WWW-Authenticate": _REALM} if status == 401 else {}
    if isinstance(error, TooMany | NoRoom | NotChecked):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, UnknownElement):
        headers[APPLIED] = STRICT
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = error.content_range
    return Problem(status, str(error), type(error).__name__, headers)


def _no_route(request: Request, error: HTTPException) -> Problem:
    match error.status_code:
        case 404:
            return Problem(404, "there is no such resource", "NotFound", page_message=_GONE)
        case 405:
            message = f"{request.method} is not allowed here"
            return Problem(405, message, "MethodNotAllowed", error.headers or {}, page_message=_GONE)
        case status:
            return Problem(status, HTTPStatus(status).phrase, "HttpError", error.headers or {}, page_message=_GONE)


def _store_error(error: Exception) -> Problem:
    logger.error("the ticket store did not answer: %s", type(error).__name__)
    return Problem(
        503,
        "the ticket store does not answer; nothing was accepted, try again",
        "StoreUnavailable",
        {"Retry-After": str(_STORE_RETRY_SECONDS)},
        page_message="The ticket store does not answer. Nothing was changed; try again in a moment.",
    )


def _unexpected(error: Exception) -> Problem:
    logger.error("unexpected", exc_info=error)
    return Problem(
        500,
        "an unexpected error occurred; the intake's log has the details",
        "InternalError",
        page_message="This is a bug in the publisher. The intake's log has the details.",
    )
