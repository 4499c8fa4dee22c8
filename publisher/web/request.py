"""A request, as the API and the console see it: who sends it, from where, to which host, and its body."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Annotated, Protocol, cast

from starlette.background import BackgroundTasks
from starlette.requests import ClientDisconnect, Request

from publisher.core.allowed_hosts import is_allowed
from publisher.core.asking import Asking, alone
from publisher.core.errors import BodyTooLarge
from publisher.core.settings import Settings
from publisher.core.uris import parse_id
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy
from publisher.services.wakeups import Wake, Wakeups
from publisher.store import Actor, CallerRow, Extent, Store, User
from publisher.web import auth
from publisher.web.check_results import CheckResults
from publisher.web.rate_limits import Throttle
from publisher.web.routing import From, Parsed, may_take_long
from publisher.web.threads import waking

API = "/api"
HEAD_ONLY = "publisher.head"
"""A key in the scope of a HEAD request."""
PASSWORD_KNOWN = "publisher.password_known"  # noqa: S105
"""A key in the scope of a request whose password was verified a short time ago, with the `KnownPassword`."""

_COUNTED = "publisher.counted"
"""A key in the scope of a request that is counted for its user. What takes long is called twice."""
_HOSTS_KEPT, _HOST_LENGTH_MAX = 1024, 255
"""Number of hosts whose URL is kept, and the length of the longest one: callers send anything."""
_LENGTH_DIGITS = 19
_LENGTH_MAX = (1 << 63) - 1
"""A Content-Length in 64 bits."""


class SecretKeeper(Sealer, Protocol):
    """The half of the vault that encrypts."""

    def mac(self, purpose: str, text: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What the app works with, kept in its state."""

    settings: Settings
    store: Store
    sealer: SecretKeeper
    wakeups: Wakeups
    authenticator: auth.Authenticator
    throttle: Throttle
    policy: OutboundPolicy
    started: float = field(default_factory=time.time)


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def check_results(request: Request) -> CheckResults:
    """Return what waits for the results of checks."""
    return cast(CheckResults, request.app.state.check_results)


def signed_in(request: Request) -> User:
    """Return the user of a request. If it names an API key, only its signature counts.

    Raises `NotAuthenticated`, or `TooMany` if the user sends too many requests or too many sign-ins have failed.
    """
    return alone(signed_in_beside(request, None, lambda: None)).user


def signed_in_beside(
    request: Request, beside: Extent | None, takes_long: Callable[[], None] | None = None
) -> Asking[CallerRow]:
    """Return what `signed_in` returns and, read in the same statement, what `beside` says of the path's ticket.

    `takes_long` is called before a password is hashed; by default, it raises `TakesLong` if others would wait for it.
    """
    made = services(request)
    ticket_id = parse_id(str(request.path_params.get("pitid", ""))) if beside else None
    found = yield from made.authenticator.caller(
        request.scope["raw_path"],
        request.scope["query_string"],
        request.headers.get("authorization"),
        address(request),
        known=request.scope.get(PASSWORD_KNOWN),
        beside=beside if ticket_id else None,
        ticket_id=ticket_id or 0,
        takes_long=takes_long or partial(may_take_long, request),
    )
    if _COUNTED not in request.scope:
        request.scope[_COUNTED] = True
        made.throttle.users.count(found.user.login)
    return found


def count_address(request: Request) -> None:
    """Count the request for its address. Raises `TooMany`."""
    services(request).throttle.addresses.count(address(request))


async def refuse_without_login(request: Request) -> None:
    """Raise `NotAuthenticated` at once if the request has no login and no API key, before its body is read."""
    if not request.scope["query_string"] and "authorization" not in request.headers:
        services(request).authenticator.user(None, address(request))


def waits_for_hash(request: Request) -> bool:
    """Return whether `signed_in` has to hash a password. That may wait for its turn, and must keep no thread that
    others need to write."""
    return PASSWORD_KNOWN not in request.scope and "authorization" in request.headers


def address(request: Request) -> str:
    """Return the caller's address; behind a trusted proxy (`--proxy-headers`), the one that the proxy names."""
    client = request.scope.get("client")
    return str(client[0]) if client else ""


def actor(request: Request, login: str, door: str = "api") -> Actor:
    """Return the actor of a request, for the audit log."""
    return Actor(login, door, address(request) or None, getattr(request.state, "request_id", None))


def host_is_allowed(request: Request) -> bool:
    """Return whether the `Host` of the request is one of this service's."""
    server = request.scope.get("server") or ("",)
    return is_allowed(request.headers.get("host", ""), services(request).settings, local_address=server[0])


def base_url(request: Request) -> str:
    """Return the URL that the addresses of new objects begin with, without a slash at the end.

    It is `PUBLISHER_PUBLIC_URL`, or the request's `Host` if that is one of ours, or the connection's local address.
    """
    settings = services(request).settings
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scope = request.scope
    server = scope.get("server")
    if host_is_allowed(request):
        host = request.headers["host"]
        find = _url_of_host if len(host) <= _HOST_LENGTH_MAX else _url_of_host.__wrapped__
        root = scope.get("app_root_path", scope.get("root_path", ""))
        return find(scope["scheme"], host, tuple(server) if server else None, root)
    if not server:
        return settings.intake
    host, port = server
    return f"{scope['scheme']}://{f'[{host}]' if ':' in host else host}:{port}"


@lru_cache(_HOSTS_KEPT)
def _url_of_host(scheme: str, host: str, server: tuple[str, int] | None, root_path: str) -> str:
    """Return the URL of our root at that host, without a slash at the end. Kept: most requests name the same host."""
    scope = {"type": "http", "scheme": scheme, "server": server, "root_path": root_path}
    return str(Request(scope | {"headers": [(b"host", host.encode("latin-1"))]}).base_url).rstrip("/")


def is_head(request: Request) -> bool:
    """Return whether this is a HEAD request. Its route sees the method GET."""
    return HEAD_ONLY in request.scope


def declared_length(request: Request) -> int | None:
    """Return the Content-Length, at most `_LENGTH_MAX`; None if there is none."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal():
        return None
    return int(declared) if len(declared) <= _LENGTH_DIGITS else _LENGTH_MAX


def media_type(content_type: str | None) -> str:
    """Return a Content-Type without its parameters; empty if there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def signer(request: Request) -> User | None:
    """Return the user whose API key signed the request; None if it names no key. Raises `NotAuthenticated`."""
    return services(request).authenticator.signer(request.scope["raw_path"], request.scope["query_string"])


async def bounded_body(request: Request) -> bytes:
    """Read the request's body, no further than the limit. Raises `BodyTooLarge`, or `ClientDisconnect` if it ends too
    early."""
    limit = services(request).settings.request_bytes_max
    # Refuse an announced size unread, so that a caller that waits for a 100-continue need not send the body.
    too_large = (declared_length(request) or 0) > limit
    body, more = bytearray(), True
    while more and not too_large:
        message = await request.receive()  # what `Request.stream` adds to this takes as long again
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        too_large = len(body) > limit
    if too_large:
        raise BodyTooLarge(f"the request body is larger than {limit} bytes")
    return bytes(body)


def _id(text: str) -> int:
    if (id := parse_id(text)) is None:
        raise ValueError("not an id")
    return id


Body = Annotated[bytes, From(bounded_body)]
Id = Annotated[int, Parsed(_id)]
"""An id in a path. What cannot be an id is not found, without a query to the database."""


def wake_later(after: BackgroundTasks, wake: Callable[[int], Asking[bool]]) -> Wake:
    """Return a function that wakes a worker after the response is sent: no caller waits for the broker."""
    return lambda id: after.add_task(waking.do, (wake(id), copy_context()))
