"""The HTTP status of each error: the same for documents and for pages."""

from __future__ import annotations

from fastapi import Request
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

STORE_RETRY_SECONDS = 5


class TooSlow(PublisherError):
    """The request did not come in time."""


class NoRoom(PublisherError):
    """There is no room left for the image; nothing was kept of it, try again later."""

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
    """The HTTP status of an error of ours; 500 for what no caller can do anything about."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


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
