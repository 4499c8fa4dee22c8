"""Conditional requests (RFC 9110, section 13): 304 where the caller has the current answer already."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from fastapi import Request, Response

from publisher.core.ticket import Ticket
from publisher.web.request import services


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document as it goes out: to many, where many ask for the same."""

    body: bytes
    media_type: str
    etag: str
    changed: int
    """In whole seconds since the epoch, rounded up."""


def respond(request: Request, document: Rendered) -> Response:
    """200, or 304 where the caller has it already."""
    headers = {
        "ETag": document.etag,
        # A change and another one may share a second, which the date could not tell apart: what is given is the second
        # after the change, and until that has come, the one before it, to which no later request is answered 304.
        "Last-Modified": formatdate(min(document.changed, math.floor(time.time())), usegmt=True),
        "Cache-Control": "private, no-cache",
        "Vary": "Accept, Authorization",
    }
    if caller_has(request, document.etag, document.changed):
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type=document.media_type)


def is_conditional(request: Request) -> bool:
    return "if-none-match" in request.headers or "if-modified-since" in request.headers


def constant(request: Request, body: bytes, media_type: str, more: Mapping[str, str] | None = None) -> Response:
    """200 with what stays the same as long as the service runs, or 304. `more` are headers."""
    changed = math.ceil(services(request).started)
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Last-Modified": formatdate(min(changed, math.floor(time.time())), usegmt=True),
        "Cache-Control": "no-cache",
        **(more or {}),
    }
    if caller_has(request, headers["ETag"], changed):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def caller_has(request: Request, etag: str, changed: int) -> bool:
    """RFC 9110, 13.1.2 and 13.1.3: If-Modified-Since counts only where there is no If-None-Match."""
    if given := request.headers.getlist("if-none-match"):
        tags = {tag.strip().removeprefix("W/") for tag in ",".join(given).split(",")}
        return "*" in tags or etag in tags
    if (since := request.headers.get("if-modified-since")) is not None:
        try:
            moment = parsedate_to_datetime(since)
            # One of the forms that HTTP has for a date names no zone, and means UTC.
            return changed <= (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, IndexError):
            return False
    return False


def last_modified(*tickets: Ticket) -> float:
    """When the newest of them changed; 0 where there is none."""
    return max((each.changed for each in tickets), default=0.0)
