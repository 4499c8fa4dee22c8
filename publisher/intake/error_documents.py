"""Render errors for programs: every answer from status 400 up is a `uforgeError` document in the requested format."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from publisher.core.errors import NotAcceptable
from publisher.intake.wire.formats import Format, answer_format
from publisher.intake.wire.writing import write_document
from publisher.web import Problem


def error_document(request: Request, problem: Problem) -> Response:
    """Return a `uforgeError` answer. The problem's kind is its `messageId`, which programs can rely on."""
    try:
        form = answer_format(request.headers.get("accept"))
    except NotAcceptable:
        form = Format.XML
    uri = request.scope["raw_path"].decode("ascii", "replace")
    body = problem_document(form, problem.status, problem.message, kind=problem.kind, method=request.method, uri=uri)
    return Response(body, problem.status, headers=dict(problem.headers), media_type=form.content_type)


def problem_document(form: Format, status: int, message: str, *, kind: str, method: str, uri: str) -> bytes:
    """Return the `uforgeError` document for a request."""
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
