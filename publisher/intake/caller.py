"""The caller of an API route: who it is, what it may see, and its answers in the format that it asked for."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request, Response

from publisher.intake import extensions
from publisher.intake.wire.codec import read_document, write_document
from publisher.platforms.platform import Document, find_platform, known_platforms
from publisher.store import Store
from publisher.store.users import User
from publisher.web import auth
from publisher.web.conditional import Rendered, respond
from publisher.web.negotiation import Format, answer_format, body_format, charset
from publisher.web.request import API, Services, actor, base_url, services, signed_in


@dataclass(frozen=True)
class Caller:
    """An authenticated request."""

    request: Request
    services: Services
    user: User
    form: Format

    @cached_property
    def store(self) -> Store:
        """The store. Changes made through it are in the audit log, attributed to the caller."""
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
        return frozenset(each.name for each in known_platforms() if extended or not each.extension)

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


def rendered(form: Format, root: str, document: Document, modified: float) -> Rendered:
    """`modified` is in seconds since the epoch."""
    body = write_document(form, root, document)
    return Rendered(body, form.content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"', math.ceil(modified))


def answer(request: Request, form: Format, root: str, document: Document, modified: float) -> Response:
    """200, or 304 where the caller has it already. `modified` is in seconds since the epoch."""
    return respond(request, rendered(form, root, document, modified))


def caller(request: Request) -> Caller:
    """Raises `NotAuthenticated`, `NotAcceptable`."""
    return Caller(request, services(request), signed_in(request), answer_format(request.headers.get("accept")))


Calling = Annotated[Caller, Depends(caller)]
