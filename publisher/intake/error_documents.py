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

from publisher.core.errors import PublisherError, TooMany
from publisher.intake.wire.codec import write_document
from publisher.web.error_status import STORE_RETRY_SECONDS, NoRoom, RangeNotSatisfiable, allowed_methods, status_of
from publisher.web.negotiation import Format, NotAcceptable, answer_format

logger = logging.getLogger(__name__)

REALM = 'Basic realm="image publisher", charset="UTF-8"'


def install(app: FastAPI) -> None:
    """Have the app answer every error in this way, the framework's own included."""
    app.add_exception_handler(PublisherError, _publisher_error)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(RequestValidationError, _invalid_path)
    app.add_exception_handler(SQLAlchemyError, _store_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


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
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = error.content_range
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


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("unexpected", exc_info=error)
    return problem(request, 500, "an unexpected error; the intake's log tells more", kind="InternalError")
