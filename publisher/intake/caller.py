"""What each route of the API has: a declaration, the caller, and answers in the caller's format.

A route is declared where it is written:

    router = api_router()

    @router.get("/users/{uid}/roles")
    @Operation("The roles of a user", answer="roles")
    def roles(caller: Calling, uid: str) -> Response: ...

The `Caller` requires the declared entitlement, reads the declared body and writes the declared answer. The OpenAPI
document is made from the declarations.

Platforms and formats that only packages describe are extensions. XML answers leave them out unless the request has
`extensions=true`: existing clients have classes bound to the API's schema, and one unknown name makes a whole list
unreadable to them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from publisher.core.asking import Asking
from publisher.core.errors import InvalidRequest, NotAcceptable, NotFound, PublisherError
from publisher.core.fiql import parse
from publisher.core.listing import Listing
from publisher.intake.wire.formats import Format, answer_format
from publisher.intake.wire.reading import AccountResolver, body_format, charset, read_document
from publisher.intake.wire.unknown_elements import UnknownElements
from publisher.intake.wire.writing import write_document
from publisher.platforms.platform import Document, find_platform, known_platforms
from publisher.store import CallerRow, Extent, IdempotencyKey, Store, User
from publisher.web import (
    API,
    APPLIED,
    PREFER,
    STRICT,
    From,
    Rendered,
    Router,
    Services,
    actor,
    base_url,
    refuse_without_login,
    respond,
    services,
    signed_in_beside,
    waits_for_hash,
    wants_strict,
)

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")
_NUMBER_MAX = (1 << 31) - 1
_BOOLEANS = {"": False, "true": True, "false": False}


_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_DECLARATION = "publisher_operation"


# Declarations -------------------------------------------------------------------------------------------------------


class Login(Enum):
    """The sign-in that a route requires."""

    NONE = "no login"
    REQUIRED = "a login"
    OR_KEY = "a login or a one-time key"
    SIGNED_OR_NONE = "no login; a signature, if present, must be valid"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or a header if `place` says so."""

    name: str
    description: str
    schema: dict[str, Any]
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """The declaration of a route: the decorator between the router's decorator and the function.

    entitlement: what the caller must be entitled to; "" if any login is enough.
    body, answer: the root elements of the request and of the answer; "" for none.
    body_optional: whether a request without a body is valid, too.
    also_body, also_answer: media types beside those of documents, or instead of them if there is no root.
    conflict: why the route may answer 409; "" if it never does.
    not_found: whether the object, or what it belongs to, may be missing.
    beside: what to read of the path's ticket in the same statement as the caller: `Caller.found` has it.
    """

    summary: str
    _: KW_ONLY
    entitlement: str = ""
    body: str = ""
    answer: str = ""
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    conflict: str = ""
    login: Login = Login.REQUIRED
    also_body: tuple[str, ...] = ()
    also_answer: tuple[str, ...] = ()
    not_found: bool = True
    beside: Extent | None = None
    body_optional: bool = False

    def __call__(self, endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _DECLARATION, self)
        return endpoint


def api_router() -> Router:
    """Return a router for routes of the API."""
    return Router()


def declaration(endpoint: object) -> Operation:
    """Return the declaration of a route's function. Raises LookupError if it has none."""
    declared = getattr(endpoint, _DECLARATION, None)
    if not isinstance(declared, Operation):
        raise LookupError(f"{endpoint!r} is a route of the API and has no @Operation")
    return declared


EXTENSIONS = Parameter(
    "extensions",
    "In XML, also name platforms and formats that the API does not define. JSON always names them.",
    {"type": "boolean"},
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Makes the request safe to repeat: sent again with the same key, it creates nothing new and gets the first answer.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "header",
)
HANDLING = Parameter(
    PREFER,
    f"`{STRICT}` refuses a body with an unknown element. Otherwise, `warnings` names the unknown elements, in JSON.",
    {"type": "string"},
    "header",
)
"""Of each route that has a document in its body."""
PREFLIGHT = Parameter(
    "preflight",
    "Before anything is created, have a worker ask the cloud whether it would accept the image: the login, the project,"
    " rights, quota, name and format. If not, no ticket is created.",
    {"type": "boolean"},
)
LISTING = (
    Parameter(
        "query", "A FIQL expression, such as `name=='*nginx*'`. Only objects that match are listed.", {"type": "string"}
    ),
    Parameter("orderBy", "The element to sort by.", {"type": "string"}),
    Parameter("descending", "Sort in descending order.", {"type": "boolean"}),
    Parameter("count", "Maximum number to list. `total` counts all matches.", {"type": "integer", "minimum": 1}),
    Parameter("offset", "Number of matches to skip.", {"type": "integer", "minimum": 0}),
)
OF_IMAGE = Parameter(
    "img", "The URI or the number of an image. Only this image, or what belongs to it, is listed.", {"type": "string"}
)


# The caller ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """An authenticated request."""

    request: Request
    services: Services
    found: CallerRow
    form: Format
    operation: Operation

    @property
    def user(self) -> User:
        return self.found.user

    @cached_property
    def _unknown(self) -> UnknownElements:
        """The unknown elements of the request's body, as far as it was read."""
        return UnknownElements()

    @cached_property
    def store(self) -> Store:
        """The store. Changes made through it are in the audit log, attributed to the caller."""
        return self.services.store.acting(actor(self.request, self.user.login))

    def owner(self, login: str) -> str:
        """Return the user whose objects the path names.

        Raises `NotFound` for another user's objects, and `NotAllowed` if the caller lacks the declared entitlement.
        """
        found = self.services.store.users.owner(self.user, login)
        if self.operation.entitlement:
            self.user.require(self.operation.entitlement)
        return found

    def owner_of_appliance(self, login: str, appliance_id: int) -> str:
        """Return the user who owns the appliance in the path.

        Raises `NotFound` for an appliance that the user does not have: an empty list would say that it exists.
        """
        owner = self.owner(login)
        self.store.appliances.get(owner, appliance_id)
        return owner

    # What the request asks for

    def read(self, body: bytes, resolve: AccountResolver | None = None) -> Document:
        """Read the declared document in the request's body. `resolve` finds the platform of an account that does not
        declare one.

        The answer warns of unknown elements. If the caller prefers strict handling, they are an error.

        Raises `UnsupportedMediaType`, `BodyTooLarge`, `InvalidRequest`.
        """
        content_type = self.request.headers.get("content-type")
        limit = self.services.settings.request_bytes_max
        document = read_document(
            body,
            body_format(content_type),
            self.operation.body,
            charset=charset(content_type),
            limit=limit,
            resolve=resolve,
            unknown=self._unknown,
        )
        if self._unknown.count and wants_strict(self.request):
            raise self._unknown.error()
        return document

    def idempotency_key(self, body: bytes) -> IdempotencyKey | None:
        """Return the key in the header `Idempotency-Key`; None without one. Raises `InvalidRequest`.

        Two requests are the same if their method, their path and every byte of their body are equal. The query does
        not count: with an API key it contains a signature.
        """
        given = self.request.headers.getlist(IDEMPOTENCY_KEY.name)
        if not given:
            return None
        if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0]):
            raise InvalidRequest("must be one key of 1 to 255 printable ASCII characters", field=IDEMPOTENCY_KEY.name)
        scope = self.request.scope
        request = f"{scope['method']}\0{scope['path']}\0".encode() + body
        return IdempotencyKey(
            self.user.login,
            given[0],
            # A plain hash of the body would let readers of the database try passwords on it.
            tuple(self.services.sealer.fingerprints(request)),
            self.services.settings.idempotency_seconds,
        )

    @property
    def extended(self) -> bool:
        """Whether the answer may name platforms and formats that the API does not know. Raises `InvalidRequest`."""
        return extensions_wanted(self.request) or self.form is Format.JSON

    @property
    def platforms(self) -> frozenset[str]:
        """The platforms that the answer may name. Raises `InvalidRequest`."""
        extended = self.extended
        return frozenset(each.name for each in known_platforms() if extended or not each.extension)

    def check_shown(self, platform: str) -> None:
        """Raise `NotAcceptable` or `NotFound` if the answer may not name the platform. Raises `InvalidRequest`."""
        if platform not in self.platforms:
            raise not_shown(platform)

    # Answers

    def answer(self, document: Document, modified: float) -> Response:
        """Return 200, or 304 if the caller has this answer. `modified` is in seconds since the epoch."""
        return answer(self.request, self.form, self.operation.answer, document, modified)

    def created(self, document: Document, uri: str) -> Response:
        """Return 201 with the absolute `Location` of the new object."""
        created = self._written(document, 201)
        # `Response.headers` would first look for a header of that name.
        created.raw_headers.append((b"location", f"{base_url(self.request)}{API}/{uri}".encode("latin-1")))
        return created

    def changed(self, document: Document) -> Response:
        """Return 200 with the object after the change."""
        return self._written(document, 200)

    def _written(self, document: Document, status: int) -> Response:
        unknown = self._unknown
        if unknown.count and self.form is Format.JSON:
            document = document | {"warnings": unknown.warnings()}
        body = write_document(self.form, self.operation.answer, document)
        response = Response(body, status, media_type=self.form.content_type)
        # What was accepted earlier, with the same Idempotency-Key, is not refused now.
        if self.operation.body and not unknown.count and wants_strict(self.request):
            response.raw_headers.append((APPLIED.lower().encode(), STRICT.encode()))
        return response


def caller(request: Request, _: Annotated[None, From(refuse_without_login)]) -> Asking[Caller]:
    """Return the caller of an API request. Raises `NotAuthenticated`, `TooMany`, `NotAcceptable`."""
    declared = declaration(request.scope["endpoint"])
    found = yield from signed_in_beside(request, declared.beside)
    return Caller(request, services(request), found, answer_format(request.headers.get("accept")), declared)


Calling = Annotated[Caller, From(caller, apart=waits_for_hash)]


def rendered(form: Format, root: str, document: Document, modified: float) -> Rendered:
    """Write the answer's body and its validators. `modified` is in seconds since the epoch."""
    body = write_document(form, root, document)
    return Rendered(lambda: body, form.content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"', math.ceil(modified))


def answer(request: Request, form: Format, root: str, document: Document, modified: float) -> Response:
    """Return 200, or 304 if the caller has this answer. `modified` is in seconds since the epoch."""
    return respond(request, rendered(form, root, document, modified))


def not_shown(platform: str) -> PublisherError:
    """Return the error for an object that the answer may not contain because of its platform."""
    if find_platform(platform) is None:
        return NotFound(f"it belongs to the platform '{platform}', which no installed package describes")
    return NotAcceptable(
        f"the API's schema does not have the platform '{platform}'; accept application/json, or add extensions=true"
    )


# Parameters of the query --------------------------------------------------------------------------------------------


def extensions_wanted(request: Request) -> bool:
    """Return whether the query has `extensions=true`. Raises `InvalidRequest` for a value that is not a boolean."""
    return _boolean(request, EXTENSIONS.name)


def preflight_wanted(request: Request) -> bool:
    """Return whether the query has `preflight=true`. Raises `InvalidRequest` for a value that is not a boolean."""
    return _boolean(request, PREFLIGHT.name)


def listing(request: Request) -> Listing:
    """Return which part of a list the query asks for. An empty parameter counts as missing.

    Raises `InvalidRequest`, which names the parameter. The list itself checks the names of fields.
    """
    query = _given(request, "query")
    descending = _boolean(request, "descending")
    return Listing(
        query=parse(query) if query else None,
        order_by=_given(request, "orderBy") or None,
        descending=descending,
        count=_number(request, "count", 1),
        offset=_number(request, "offset", 0) or 0,
    )


Listed = Annotated[Listing, From(listing)]
"""Which part of a list is wanted. A route asks for it after `Calling`, so that the login is checked first."""


def _given(request: Request, name: str) -> str:
    if not request.scope["query_string"]:
        return ""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidRequest("is given more than once", field=name)
    return values[0].strip() if values else ""


def _boolean(request: Request, name: str) -> bool:
    value = _BOOLEANS.get(_given(request, name).lower())
    if value is None:
        raise InvalidRequest("is not true or false", field=name)
    return value


def _number(request: Request, name: str, least: int) -> int | None:
    text = _given(request, name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= _NUMBER_MAX:
        raise InvalidRequest(f"is not a number from {least} to {_NUMBER_MAX}", field=name)
    return int(text)
