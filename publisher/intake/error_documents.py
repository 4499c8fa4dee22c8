"""Errors to HTTP: every answer from 400 up is a `uforgeError` document in the negotiated format."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
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
from publisher.intake.wire.codec import write_document
from publisher.web.body_limits import BodyTooLarge
from publisher.web.negotiation import Format, NotAcceptable, UnsupportedMediaType, answer_format

logger = logging.getLogger(__name__)

REALM = 'Basic realm="image publisher", charset="UTF-8"'
STORE_RETRY_SECONDS = 5


class TooSlow(PublisherError):
    """The request did not come in time."""


class NoRoom(PublisherError):
    """There is no room left for the image; nothing was kept of it, try again later."""

    retry_after_seconds = 300


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
    (TooMany, 429),
    (NoRoom, 503),
]


def install(app: FastAPI) -> None:
    """Have the app answer every error in this way, the framework's own included."""
    app.add_exception_handler(PublisherError, _publisher_error)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(RequestValidationError, _invalid_path)
    app.add_exception_handler(SQLAlchemyError, _store_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: Exception) -> int:
    """The HTTP status of an error of ours; 500 for what no caller can do anything about."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(
    request: Request, status: int, message: str, *, kind: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The `uforgeError` answer. `kind` is its `messageId`: stable, for programs."""
    try:
        form = answer_format(request.headers.get("accept"))
    except NotAcceptable:
        form = Format.XML
    uri = request.scope["raw_path"].decode("ascii", "replace")
    body = problem_document(form, status, message, kind=kind, method=request.method, uri=uri)
    return Response(body, status, headers=dict(headers or {}), media_type=form.content_type)


def problem_document(form: Format, status: int, message: str, *, kind: str, method: str, uri: str) -> bytes:
    """The `uforgeError` document of an answer to that request."""
    return write_document(
        form,
        "uforgeError",
        {
            "localizedErrorMsg": {"message": message, "messageId": kind},
            "requestMethod": method,
            "requestUri": uri,
            "statusCode": status,
            "timestamp": datetime.now(UTC),
        },
    )


async def _publisher_error(request: Request, error: Exception) -> Response:
    status = status_of(error)
    if status == 500:
        return await _unexpected(request, error)
    headers = {"WWW-Authenticate": REALM} if status == 401 else {}
    if isinstance(error, TooMany | NoRoom):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return problem(request, status, str(error), kind=type(error).__name__, headers=headers)


async def _framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is installed for
    message = {
        404: "there is no such resource",
        405: f"{request.method} is not allowed here",
    }.get(error.status_code, HTTPStatus(error.status_code).phrase)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HttpError")
    headers = {"Allow": ", ".join(allowed_methods(request))} if error.status_code == 405 else error.headers
    return problem(request, error.status_code, message, kind=kind, headers=headers)


async def _invalid_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    where = [".".join(str(part) for part in each["loc"][1:]) for each in error.errors()]
    if all(each["loc"][0] == "path" for each in error.errors()):
        return problem(request, 404, "there is no such resource", kind="NotFound")
    return problem(request, 400, f"{', '.join(where)}: is not valid", kind="InvalidRequest")


async def _store_error(request: Request, error: Exception) -> Response:
    logger.error("the ticket store did not answer: %s", type(error).__name__)
    return problem(
        request,
        503,
        "the ticket store does not answer; nothing was accepted, try again",
        kind="StoreUnavailable",
        headers={"Retry-After": str(STORE_RETRY_SECONDS)},
    )


async def _gone(request: Request, error: Exception) -> Response:
    """The caller hung up before its request was complete; nobody reads this."""
    return problem(request, 400, "the request body ended too early", kind="InvalidRequest")


def allowed_methods(request: Request) -> list[str]:
    """The methods of the request's path: the framework itself tells those of the first route only."""
    allowed = [
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.router.routes
        )
    ]
    return ["GET", "HEAD", *allowed[1:]] if "GET" in allowed else allowed


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("unexpected", exc_info=error)
    return problem(request, 500, "an unexpected error; the intake's log tells more", kind="InternalError")
