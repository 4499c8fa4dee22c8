"""Answer conditional requests (RFC 9110, section 13): 304 if the caller already has the current answer."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from functools import cached_property, lru_cache
from itertools import chain

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from publisher.version import __version__
from publisher.web.request import is_head, services


@dataclass(frozen=True)
class Rendered:
    """A document in the form that is sent, written when it is first needed. Callers that ask for the same share it.

    The ETag and the time of the last change suffice for a 304.
    """

    write: Callable[[], bytes]
    media_type: str
    etag: str
    changed: int
    """Time of the last change, in whole seconds since the epoch, rounded up."""

    @cached_property
    def body(self) -> bytes:
        return self.write()


def respond(request: Request, document: Rendered) -> Response:
    """Return a 200 with the document, or a 304 if the caller already has it."""
    headers = _validators(document.etag, document.changed)
    if caller_has(request, document.etag, document.changed):
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=document.media_type)


def unchanged(etag: str, changed: int) -> Response:
    """Return a 304."""
    return Response(status_code=304, headers=_validators(etag, changed))


def stream(request: Request, pieces: Iterator[bytes], media_type: str, etag: str, changed: int) -> Response:
    """Return a 200 with a body that is sent while threads write it, a piece at a time, as fast as the caller reads.

    The first piece is written here, so that an error gets an answer of its own. An error in a later one ends the
    connection: the caller sees that the rest is missing.
    """
    first = next(pieces)
    rest = iter(()) if is_head(request) else chain((first,), pieces)
    return StreamingResponse(rest, headers=_validators(etag, changed), media_type=media_type)


def _validators(etag: str, changed: int) -> dict[str, str]:
    return {
        "ETag": etag,
        # Two changes may share a second, which the date cannot distinguish. So send the second after the change or,
        # as long as that is in the future, the current one, which gets no later request a 304.
        "Last-Modified": formatdate(min(changed, math.floor(time.time())), usegmt=True),
        "Cache-Control": "private, no-cache",
        "Vary": "Accept, Authorization",
    }


def etag_of(*version: object) -> str:
    """Return the ETag of a document that is written from values with this version, by this version of the software."""
    return f'"{hashlib.sha256(repr((__version__, *version)).encode()).hexdigest()[:32]}"'


def is_conditional(request: Request) -> bool:
    """Return whether the request has a condition."""
    return "if-none-match" in request.headers or "if-modified-since" in request.headers


def constant(request: Request, body: bytes, media_type: str, more: Mapping[str, str] | None = None) -> Response:
    """Return a 200 with a body that never changes while the service runs, or a 304. `more` are further headers."""
    changed = math.ceil(services(request).started)
    headers = {
        "ETag": _etag(body),
        "Last-Modified": formatdate(min(changed, math.floor(time.time())), usegmt=True),
        "Cache-Control": "no-cache",
        **(more or {}),
    }
    if caller_has(request, headers["ETag"], changed):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


@lru_cache(32)
def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def caller_has(request: Request, etag: str, changed: int) -> bool:
    """Return whether the caller already has this answer.

    RFC 9110, 13.1.2 and 13.1.3: If-Modified-Since counts only if there is no If-None-Match.
    """
    if given := request.headers.getlist("if-none-match"):
        tags = {tag.strip().removeprefix("W/") for tag in ",".join(given).split(",")}
        return "*" in tags or etag in tags
    if (since := request.headers.get("if-modified-since")) is not None:
        try:
            moment = parsedate_to_datetime(since)
            # One of HTTP's date formats names no zone, and means UTC.
            return changed <= (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, IndexError):
            return False
    return False
