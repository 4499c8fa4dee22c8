"""What all routes share: who calls, the request's body, and the answer in the format that was asked for."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Annotated, cast

from fastapi import Depends, Request, Response

from publisher.core.publishing import Sealer, Waker
from publisher.core.settings import Settings
from publisher.core.store import Store
from publisher.core.store.users import User
from publisher.core.ticket import Ticket
from publisher.intake import auth
from publisher.intake.negotiation import Format, answer_format, body_format
from publisher.intake.wire.codec import read_document, write_document
from publisher.intake.wire.fields import Document
from publisher.intake.wire.limits import BodyTooLarge

API = "/api"


@dataclass(frozen=True, slots=True)
class Services:
    """What the app was made with; in its state."""

    settings: Settings
    store: Store
    sealer: Sealer
    waker: Waker
    authenticator: auth.Authenticator


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request."""

    request: Request
    services: Services
    user: User
    form: Format

    def owner(self, login: str, entitlement: str | None) -> str:
        """Whose objects the path names. Raises `NotFound` for others', `NotAllowed` without the entitlement."""
        found = auth.owner(self.services.store, self.user, login)
        if entitlement:
            auth.require(self.user, entitlement)
        return found

    def read(self, body: bytes, root: str) -> Document:
        """Raises `UnsupportedMediaType`, `BodyTooLarge`, `InvalidRequest`."""
        form = body_format(self.request.headers.get("content-type"))
        return read_document(body, form, root, limit=self.services.settings.request_bytes_max)

    def answer(self, root: str, document: Document, modified: float) -> Response:
        """200, or 304 where the caller has it already. `modified` is in seconds since the epoch."""
        body = write_document(self.form, root, document)
        headers = {
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            "Last-Modified": formatdate(_stable(modified), usegmt=True),
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization",
        }
        if self._has(headers["ETag"], modified):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=self.form.content_type)

    def created(self, root: str, document: Document, uri: str) -> Response:
        """201 with the absolute `Location`."""
        base = self.services.settings.public_url.rstrip("/") or str(self.request.base_url).rstrip("/")
        body = write_document(self.form, root, document)
        return Response(body, 201, headers={"Location": f"{base}{API}/{uri}"}, media_type=self.form.content_type)

    def _has(self, etag: str, modified: float) -> bool:
        """RFC 9110, 13.1.2 and 13.1.3: If-Modified-Since counts only where there is no If-None-Match."""
        if (tags := self.request.headers.get("if-none-match")) is not None:
            given = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
            return "*" in given or etag in given
        if (since := self.request.headers.get("if-modified-since")) is not None:
            try:
                return math.floor(modified) <= parsedate_to_datetime(since).timestamp()
            except (ValueError, OverflowError):
                return False
        return False


def caller(request: Request) -> Caller:
    """Raises `NotAuthenticated`, `NotAcceptable`."""
    made = services(request)
    user = made.authenticator.user(request.headers.get("authorization"))
    return Caller(request, made, user, answer_format(request.headers.get("accept")))


async def bounded_body(request: Request) -> bytes:
    """The request's body; no more of it is read than is allowed. Raises `BodyTooLarge`."""
    limit = services(request).settings.request_bytes_max
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"the request body is larger than {limit} bytes")
    return bytes(body)


Calling = Annotated[Caller, Depends(caller)]
Body = Annotated[bytes, Depends(bounded_body)]


def last_modified(tickets: Iterable[Ticket]) -> float:
    """When the newest of them changed; 0 where there is none."""
    return max((ticket.modified for ticket in tickets), default=0.0)


def _stable(modified: float) -> int:
    """The second to give as Last-Modified: within the very second of a change another one may follow, and the date
    could not tell them apart, so that until then it is the second before."""
    second = math.floor(modified)
    return second if time.time() >= second + 1 else second - 1
