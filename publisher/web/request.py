"""What all routes share: who calls, the request's body, and the answer in the format that was asked for."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from typing import Annotated, Protocol, cast

from fastapi import Depends, Path, Request, Response
from pydantic import BeforeValidator
from starlette.convertors import Convertor, register_url_convertor

from publisher.core.allowed_hosts import is_allowed
from publisher.core.settings import Settings
from publisher.core.ticket import Ticket
from publisher.core.vault import Sealer
from publisher.intake import extensions
from publisher.intake.wire.codec import read_document, write_document
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.fields import Document
from publisher.platforms.wire_types import PLATFORMS, find_platform
from publisher.services.image_registration import ImageWaker
from publisher.services.publishing import Waker
from publisher.store import Store
from publisher.store.audit import Actor
from publisher.store.users import User
from publisher.web import auth
from publisher.web.body_limits import BodyTooLarge
from publisher.web.negotiation import Format, answer_format, body_format, charset
from publisher.web.rate_limits import Throttle

API = "/api"

_ID = re.compile(r"[1-9][0-9]{0,18}")
_ID_MAX = (1 << 63) - 1
_LENGTH_DIGITS = 19
"""Of a Content-Length in 64 bits."""


class Wakers(Waker, ImageWaker, Protocol):
    """Wakes workers, for whatever there is to do."""


class SecretKeeper(Sealer, Protocol):
    """The vault, but for what opens it."""

    def mac(self, purpose: str, text: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What the app was made with; in its state."""

    settings: Settings
    store: Store
    sealer: SecretKeeper
    waker: Wakers
    authenticator: auth.Authenticator
    throttle: Throttle
    policy: OutboundPolicy
    started: float = field(default_factory=time.time)


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request."""

    request: Request
    services: Services
    user: User
    form: Format

    @property
    def store(self) -> Store:
        """The store for what the caller changes: who did so is written down with it."""
        return self.services.store.acting(actor(self.request, self.user.login))

    def owner(self, login: str, entitlement: str | None) -> str:
        """Whose objects the path names. Raises `NotFound` for others', `NotAllowed` without the entitlement."""
        found = auth.owner(self.services.store, self.user, login)
        if entitlement:
            auth.require(self.user, entitlement)
        return found

    def read(self, body: bytes, root: str, platform: str = "") -> Document:
        """The document in a request's body, of that platform where it does not tell its own.

        Raises `UnsupportedMediaType`, `BodyTooLarge`, `InvalidRequest`.
        """
        content_type = self.request.headers.get("content-type")
        limit = self.services.settings.request_bytes_max
        return read_document(
            body,
            body_format(content_type),
            root,
            charset=charset(content_type),
            limit=limit,
            platform=find_platform(platform),
        )

    @property
    def platforms(self) -> frozenset[str]:
        """The platforms that the answer may name. Raises `InvalidRequest`."""
        extended = extensions.shown(self.request, self.form)
        return frozenset(each.name for each in PLATFORMS if extended or not each.extension)

    @property
    def extended(self) -> bool:
        """Whether the answer may name formats that the API does not know. Raises `InvalidRequest`."""
        return extensions.shown(self.request, self.form)

    def check_shown(self, platform: str) -> None:
        """Raises `NotAcceptable` or `NotFound` where the answer may not name the platform; `InvalidRequest`."""
        if platform not in self.platforms:
            raise extensions.not_shown(platform)

    def answer(self, root: str, document: Document, modified: float) -> Response:
        """200, or 304 where the caller has it already. `modified` is in seconds since the epoch."""
        return answer(self.request, self.form, root, document, modified)

    def created(self, root: str, document: Document, uri: str) -> Response:
        """201 with the absolute `Location`."""
        base = base_url(self.request)
        body = write_document(self.form, root, document)
        return Response(body, 201, headers={"Location": f"{base}{API}/{uri}"}, media_type=self.form.content_type)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document as it goes out: to many, where many ask for the same."""

    body: bytes
    media_type: str
    etag: str
    changed: int
    """In whole seconds since the epoch, rounded up."""


def rendered(form: Format, root: str, document: Document, modified: float) -> Rendered:
    """`modified` is in seconds since the epoch."""
    body = write_document(form, root, document)
    return Rendered(body, form.content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"', math.ceil(modified))


def answer(request: Request, form: Format, root: str, document: Document, modified: float) -> Response:
    """200, or 304 where the caller has it already. `modified` is in seconds since the epoch."""
    return respond(request, rendered(form, root, document, modified))


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


def caller(request: Request) -> Caller:
    """Raises `NotAuthenticated`, `NotAcceptable`."""
    return Caller(request, services(request), signed_in(request), answer_format(request.headers.get("accept")))


def signed_in(request: Request) -> User:
    """A request that names an API key stands by its signature, whatever else it has.

    Raises `NotAuthenticated`, or `TooMany` where the user asks too often, or too many sign-ins have failed.
    """
    made = services(request)
    user = signer(request) or made.authenticator.user(request.headers.get("authorization"), address(request))
    made.throttle.users.count(user.login)
    return user


async def count_address(request: Request) -> None:
    """Before anything else is looked at. Raises `TooMany`."""
    services(request).throttle.addresses.count(address(request))


def address(request: Request) -> str:
    """Where the request comes from; behind a proxy that is believed (`--proxy-headers`), what that says."""
    return request.client.host if request.client else ""


def actor(request: Request, login: str, door: str = "api") -> Actor:
    """Who asks, for the audit log."""
    return Actor(login, door, address(request) or None, getattr(request.state, "request_id", None))


def host_is_allowed(request: Request) -> bool:
    """Whether the request names this service by a host of its own."""
    server = request.scope.get("server") or ("",)
    return is_allowed(request.headers.get("host", ""), services(request).settings, local_address=server[0])


def base_url(request: Request) -> str:
    """The URL that the address of a new object begins with, without a slash at the end.

    Without `PUBLISHER_PUBLIC_URL` it is the host that the request names, where that is one of ours; else the address
    that the connection came in at.
    """
    settings = services(request).settings
    if settings.public_url:
        return settings.public_url.rstrip("/")
    if host_is_allowed(request):
        return str(request.base_url).rstrip("/")
    if not (server := request.scope.get("server")):
        return settings.intake
    host, port = server
    return f"{request.scope['scheme']}://{f'[{host}]' if ':' in host else host}:{port}"


def declared_length(request: Request) -> int | None:
    """What Content-Length announces; None where it announces nothing. More than 64 bits are as many as they have."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal():
        return None
    return int(declared) if len(declared) <= _LENGTH_DIGITS else _ID_MAX


def signer(request: Request) -> User | None:
    """The user whose API key signed the request; None where it names no key. Raises `NotAuthenticated`."""
    return services(request).authenticator.signer(request.scope["raw_path"], request.scope["query_string"])


async def bounded_body(request: Request) -> bytes:
    """The request's body; no more of it is read than is allowed. Raises `BodyTooLarge`."""
    limit = services(request).settings.request_bytes_max
    # What is announced as too large is refused unread: whoever waits for our word (100-continue) need not send it.
    too_large = (declared_length(request) or 0) > limit
    body = bytearray()
    if not too_large:
        async for chunk in request.stream():
            body += chunk
            if too_large := len(body) > limit:
                break
    if too_large:
        raise BodyTooLarge(f"the request body is larger than {limit} bytes")
    return bytes(body)


def _canonical_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("not an id")
    return text


class IdConvertor(Convertor[str]):
    """`{itid:id}` in a route's path: other paths beside it, such as `statuses`, are not taken for ids."""

    regex = _ID.pattern

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", IdConvertor())

Calling = Annotated[Caller, Depends(caller)]
Body = Annotated[bytes, Depends(bounded_body)]
Id = Annotated[int, BeforeValidator(_canonical_id), Path(le=_ID_MAX)]
"""An id in a path. What none can have, more than 64 bits among it, is not found, and is never asked of the database."""


def last_modified(*tickets: Ticket) -> float:
    """When the newest of them changed; 0 where there is none."""
    return max((each.changed for each in tickets), default=0.0)
