"""A request, as the API and the console see it: who sends it, from where, to which host, its body, and the thread that
its route runs in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, cast

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import BackgroundTasks, Depends, Request
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from sqlalchemy.exc import TimeoutError as StoreTimeout
from starlette.convertors import Convertor, register_url_convertor

from publisher.core.allowed_hosts import is_allowed
from publisher.core.settings import Settings
from publisher.core.uris import ID_PATTERN, parse_id
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy
from publisher.services.wakeups import Wake, Wakeups
from publisher.store import Store
from publisher.store.audit import Actor
from publisher.store.ticket_rows import Extent
from publisher.store.users import CallerRow, User
from publisher.web import auth
from publisher.web.body_limits import BodyTooLarge
from publisher.web.rate_limits import Throttle

API = "/api"
HEAD_ONLY = "publisher.head"
"""A key in the scope of a HEAD request."""

_LENGTH_DIGITS = 19
_LENGTH_MAX = (1 << 63) - 1
"""A Content-Length in 64 bits."""

_WRITERS = 16
"""Number of threads that write to the store. Fewer than the store has connections, so that readers have some, too."""
_WAITING_MAX = 500
_WAIT_SECONDS = 5.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_P = ParamSpec("_P")
_T = TypeVar("_T")

_writers: RunVar[CapacityLimiter] = RunVar("publisher_writers")


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


def signed_in(request: Request) -> User:
    """Return the user of a request. If it names an API key, only its signature counts.

    Raises `NotAuthenticated`, or `TooMany` if the user sends too many requests or too many sign-ins have failed.
    """
    return signed_in_beside(request, None).user


def signed_in_beside(request: Request, beside: Extent | None) -> CallerRow:
    """Return what `signed_in` returns and, read in the same statement, what `beside` says of the path's ticket."""
    made = services(request)
    ticket_id = parse_id(str(request.path_params.get("pitid", ""))) if beside else None
    found = made.authenticator.caller(
        request.scope["raw_path"],
        request.scope["query_string"],
        request.headers.get("authorization"),
        address(request),
        beside=beside if ticket_id else None,
        ticket_id=ticket_id or 0,
    )
    made.throttle.users.count(found.user.login)
    return found


async def count_address(request: Request) -> None:
    """Count the request for its address, before anything else. Raises `TooMany`."""
    services(request).throttle.addresses.count(address(request))


def address(request: Request) -> str:
    """Return the caller's address; behind a trusted proxy (`--proxy-headers`), the one that the proxy names."""
    return request.client.host if request.client else ""


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
    if host_is_allowed(request):
        return str(request.base_url).rstrip("/")
    if not (server := request.scope.get("server")):
        return settings.intake
    host, port = server
    return f"{request.scope['scheme']}://{f'[{host}]' if ':' in host else host}:{port}"


def is_head(request: Request) -> bool:
    """Return whether this is a HEAD request. Its route sees the method GET."""
    return HEAD_ONLY in request.scope


def declared_length(request: Request) -> int | None:
    """Return the Content-Length, at most `_LENGTH_MAX`; None if there is none."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal():
        return None
    return int(declared) if len(declared) <= _LENGTH_DIGITS else _LENGTH_MAX


def signer(request: Request) -> User | None:
    """Return the user whose API key signed the request; None if it names no key. Raises `NotAuthenticated`."""
    return services(request).authenticator.signer(request.scope["raw_path"], request.scope["query_string"])


async def bounded_body(request: Request) -> bytes:
    """Read the request's body, no further than the limit. Raises `BodyTooLarge`."""
    limit = services(request).settings.request_bytes_max
    # Refuse an announced size unread, so that a caller that waits for a 100-continue need not send the body.
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


def _id(text: str) -> int:
    if (id := parse_id(text)) is None:
        raise ValueError("not an id")
    return id


class IdConvertor(Convertor[str]):
    """Makes `{itid:id}` in a route's path match only ids, not other paths next to it, such as `statuses`."""

    regex = ID_PATTERN

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", IdConvertor())

Body = Annotated[bytes, Depends(bounded_body)]
Id = Annotated[int, BeforeValidator(_id)]
"""An id in a path. What cannot be an id is not found, without a query to the database."""


def wake_later(after: BackgroundTasks, wake: Wake) -> Wake:
    """Return a function that wakes a worker after the response is sent: no caller waits for the broker."""
    return lambda id: after.add_task(wake, id)


async def run_as_writer(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call the function in one of the threads that write to the store, and return its result.

    Readers have other threads, so they go on while another process locks the store. Raises SQLAlchemy's `TimeoutError`
    if too many calls wait for a thread, or this one has waited too long; the function has not been called then.
    """
    try:
        threads = _writers.get()
    except LookupError:
        threads = CapacityLimiter(_WRITERS)
        _writers.set(threads)
    if threads.statistics().tasks_waiting >= _WAITING_MAX:
        raise StoreTimeout("too many wait to write to the store")
    turn = object()
    try:
        with anyio.fail_after(_WAIT_SECONDS):
            await threads.acquire_on_behalf_of(turn)
    except TimeoutError:
        raise StoreTimeout("the store has not been written to for too long") from None
    try:
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=CapacityLimiter(1))
    finally:
        threads.release_on_behalf_of(turn)


class WriterRoute(APIRoute):
    """A route that runs in a writer's thread if its method may change something."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if set(options.get("methods") or {"GET"}) - _SAFE and not iscoroutinefunction(endpoint):
            endpoint = _as_writer(endpoint)
        super().__init__(path, endpoint, **options)


def _as_writer(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return await run_as_writer(endpoint, *args, **kwargs)

    return run
