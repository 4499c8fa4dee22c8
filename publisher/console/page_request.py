"""A request for a page: the signed-in user, the form, the cookies, the answer, and where the user can go next."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, cast
from urllib.parse import parse_qsl

from starlette.background import BackgroundTasks
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from publisher.console.live_updates import Streams
from publisher.console.rendering import BASE, PageParts, render
from publisher.core.errors import InvalidRequest, NotAllowed, NotAuthenticated
from publisher.store import Role, Session, Store, User
from publisher.web import API, From, Router, Services, actor, base_url, bounded_body, services, wake_later
from publisher.web import Id as PathId

Form = ImmutableMultiDict[str, str]

_FORM_TYPE = "application/x-www-form-urlencoded"
_FIELDS_MAX = 1000
_SAFE = ("GET", "HEAD")
_SESSION, _FLASH = "publisher_session", "publisher_flash"
_FLASH_SECONDS = 60
_FLASH_MAX = 2000


@dataclass(frozen=True, slots=True)
class Flash:
    """A sentence to show on the next page. `kind` is `done` or `problem`."""

    words: str
    kind: str = "done"


@dataclass(frozen=True)
class Visit:
    """A request of a signed-in user."""

    request: Request
    services: Services
    session: Session
    user: User
    after: BackgroundTasks
    """Tasks for the time after the answer is sent."""

    @cached_property
    def store(self) -> Store:
        """The store. Changes made through it are in the audit log, attributed to the user."""
        return self.services.store.acting(actor(self.request, self.user.login, "console"))

    @property
    def owner(self) -> str | None:
        """The login whose objects the user may see; None if the user may see those of all."""
        return None if self.user.administrator else self.user.login

    @property
    def sections(self) -> list[Section]:
        """The entries of the navigation."""
        return sections(self.user)

    @property
    def section(self) -> Section | None:
        """The entry of the navigation that this page belongs to."""
        return current(self.user, self.request.url.path)

    def has_page(self, path: str) -> bool:
        """Return whether the user's navigation has this page. Other pages link to it only then."""
        return has_page(self.user, path)

    @property
    def flower_url(self) -> str:
        """Address of Flower, next to the intake's."""
        return f"{self.services.settings.flower}/"

    @property
    def api_url(self) -> str:
        """Address of the API, without a slash at the end."""
        return f"{base_url(self.request)}{API}"

    def api_path(self, uri: str) -> str:
        """Return the path of an object in the API."""
        return f"{API}/{uri}"

    def wake_ticket(self, id: int) -> None:
        """Wake a worker for a ticket after the answer is sent."""
        wake_later(self.after, self.services.wakeups.ticket)(id)

    def wake_image(self, id: int) -> None:
        """Wake a worker for an image after the answer is sent."""
        wake_later(self.after, self.services.wakeups.image)(id)

    def may(self, entitlement: str) -> bool:
        return self.user.may(entitlement)

    def require(self, entitlement: str) -> None:
        """Raise `NotAllowed` unless the user has the entitlement."""
        self.user.require(entitlement)

    def require_administrator(self) -> None:
        """Raise `NotAllowed` unless the user is an administrator."""
        if not self.user.administrator:
            raise NotAllowed("only administrators may do this")

    def audit(self, action: str, uri: str, detail: str = "") -> None:
        """Record in the audit log what the user did to the object of that URI, where the store does not do so."""
        self.services.store.audit.add(actor(self.request, self.user.login, "console"), action, uri, detail)

    def page(self, template: str, /, *, status: int = 200, **context: object) -> Response:
        """Return a page, with the message that the last request left."""
        return page(self.request, template, status=status, visit=self, **context)

    def redirect(self, path: str, message: str | Flash | None = None) -> Response:
        """Redirect to another page, which shows `message`, after a change. `path` is below the console's own."""
        response = RedirectResponse(BASE + path, 303)
        if message is not None:
            _set_flash(self.request, response, Flash(message) if isinstance(message, str) else message)
        return response

    def live(self, look: Callable[[], PageParts]) -> Response:
        """Return the events that keep a page up to date.

        They end when the page is closed, or the user is signed out or gets other rights. Raises `TooMany`.
        """
        streams = cast(Streams, self.request.app.state.streams)
        return streams.response(look, self._as_it_was, self.user.login)

    def _as_it_was(self) -> bool:
        now = _signed_in(self.request, seen=False)
        return now is not None and _rights(now[1]) == _rights(self.user)


def page(request: Request, template: str, /, *, status: int = 200, **context: object) -> Response:
    """Render a page, with the message that the last request left. `visit` in the context is None for strangers."""
    message = _flash(request)
    response = HTMLResponse(render(template, flash=message, path=request.url.path, **context), status)
    if message is not None:
        _drop_flash(request, response)
    return response


def visit(request: Request, after: BackgroundTasks) -> Visit:
    """Return the signed-in user's visit. Raises `NotAuthenticated`."""
    found = _signed_in(request, seen=not request.url.path.endswith("/events"))
    if found is None:
        raise NotAuthenticated
    made = Visit(request, services(request), *found, after)
    request.state.visit = made
    return made


def _signed_in(request: Request, *, seen: bool) -> tuple[Session, User] | None:
    made, value = services(request), session_value(request)
    session = (
        made.store.sessions.find(value, idle_seconds=made.settings.session_idle_seconds, seen=seen) if value else None
    )
    user = made.store.users.get(session.login) if session else None
    return (session, user) if session and user else None


def _rights(user: User) -> tuple[bool, frozenset[str], frozenset[Role]]:
    return user.administrator, user.entitlements, frozenset(user.roles)


async def _sent(request: Request) -> Form | None:
    """Read the fields of a form; None if the body is not a form. Raises `BodyTooLarge`, `InvalidRequest`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        return None
    try:
        fields = parse_qsl((await bounded_body(request)).decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX)
    except ValueError:  # not UTF-8, or too many
        raise InvalidRequest("the form cannot be read") from None
    # No text in the store has a NUL, and PostgreSQL refuses one in a query.
    return ImmutableMultiDict([(name, value.replace("\0", "")) for name, value in fields])


def _posted(form: Annotated[Form | None, From(_sent)]) -> Form:
    if form is None:
        raise InvalidRequest("send a form")
    return form


Id = PathId
"""An id in a path, or in the query."""
Visiting = Annotated[Visit, From(visit)]
Posted = Annotated[Form, From(_posted)]
Sent = Annotated[Form | None, From(_sent)]


def protected(request: Request, visit: Visiting, form: Sent) -> None:
    """Protect every route except those of signing in.

    Somebody must be signed in, and a change must come from a form of the console. Raises `NotAuthenticated`,
    `NotAllowed`, or `TooMany` if the user sends requests too often.
    """
    visit.services.throttle.users.count(visit.user.login)
    if request.method in _SAFE:
        return
    token = request.headers.get("x-csrf-token") or (form.get("csrf", "") if form else "")
    if not hmac.compare_digest(token.encode(), visit.session.csrf.encode()):
        raise NotAllowed("this form is too old, or not from the console; reload its page")


def page_router() -> Router:
    """Return a router for pages. Each of its routes is `protected`."""
    return Router(protected)


# Cookies ------------------------------------------------------------------------------------------------------


def secure(request: Request) -> bool:
    """Return whether browsers may send the cookies only over TLS."""
    settings = services(request).settings
    return request.url.scheme == "https" or settings.production or settings.public_url.startswith("https:")


def session_value(request: Request) -> str | None:
    return request.cookies.get(_name(request, _SESSION))


def set_session(request: Request, response: Response, value: str, seconds: float) -> None:
    _set(request, response, _SESSION, value, int(seconds))


def drop_session(request: Request, response: Response) -> None:
    _drop(request, response, _SESSION)


def _flash(request: Request) -> Flash | None:
    try:
        words, kind = json.loads(base64.urlsafe_b64decode(request.cookies.get(_name(request, _FLASH), "")))
    except (ValueError, TypeError, RecursionError):  # there is none, or it is not ours
        return None
    return Flash(str(words), "problem" if kind == "problem" else "done")


def _set_flash(request: Request, response: Response, message: Flash) -> None:
    value = base64.urlsafe_b64encode(json.dumps([message.words[:_FLASH_MAX], message.kind]).encode()).decode()
    _set(request, response, _FLASH, value, _FLASH_SECONDS)


def _drop_flash(request: Request, response: Response) -> None:
    _drop(request, response, _FLASH)


def _name(request: Request, name: str) -> str:
    # With this prefix, browsers accept the cookie only from this very host, over TLS, and for all of its paths.
    return f"__Host-{name}" if secure(request) else name


def _set(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=secure(request),
        httponly=True,
        samesite="lax",
    )


def _drop(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(_name(request, name), path="/", secure=secure(request), httponly=True, samesite="lax")


# Navigation -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """An entry. `path` is below the console's own, `icon` is one of `macros/icons.html`."""

    name: str
    path: str
    icon: str
    entitlement: str | None = None
    administrators: bool = False

    def shown_to(self, user: User) -> bool:
        if self.administrators:
            return user.administrator
        return self.entitlement is None or user.may(self.entitlement)

    def holds(self, path: str) -> bool:
        """Return whether the page at this path belongs to this entry."""
        here = BASE + self.path
        return path == here or path.startswith(f"{here}/")


SECTIONS: tuple[Section, ...] = (
    Section("Tickets", "/publications", "publications", "image_generate"),
    Section("Publish an image", "/publications/new", "new", "image_publish"),
    Section("Images", "/images", "images", "image_generate"),
    Section("Accounts", "/accounts", "accounts"),
    Section("API keys", "/keys", "keys", "api_key_access"),
    Section("Fleet", "/fleet", "fleet", administrators=True),
    Section("Users", "/users", "users", administrators=True),
    Section("Roles", "/roles", "roles", administrators=True),
    Section("Audit log", "/audit", "audit", administrators=True),
)  # fmt: skip


def sections(user: User) -> list[Section]:
    return [each for each in SECTIONS if each.shown_to(user)]


def current(user: User, path: str) -> Section | None:
    """Return the entry that a page belongs to; if several match, the one with the longest path."""
    return max((each for each in sections(user) if each.holds(path)), key=lambda each: len(each.path), default=None)


def has_page(user: User, path: str) -> bool:
    """Return whether the user has such an entry. Pages link only to pages that the user has."""
    return any(each.path == path for each in sections(user))


@dataclass(frozen=True, slots=True)
class FirstStep:
    """One step. `path` is below the console's own; None if the user cannot do the step now, or has done it."""

    title: str
    words: str
    action: str
    path: str | None
    done: bool


def first_steps(store: Store, user: User) -> list[FirstStep]:
    """Return what must exist before the first image is in a cloud, and what exists already."""
    has_account = bool(store.accounts.list(user.login))
    has_image = bool(store.images.latest(1, owner=user.login))
    return [
        FirstStep(
            "Cloud account",
            "Where images go, and how to sign in there. The password is stored encrypted and never shown.",
            "Add account",
            "/accounts/new" if user.may("cloud_account_create") and not has_account else None,
            has_account,
        ),
        FirstStep(
            "Image",
            "A disk image: qcow2, raw, VMDK and others. Upload it from this computer, or have a worker fetch it.",
            "Add image",
            "/images/new" if user.may("image_generate") and not has_image else None,
            has_image,
        ),
        FirstStep(
            "Publishing",
            "A worker uploads the image and compares its hash with the cloud's. You can watch the progress.",
            "Publish an image",
            "/publications/new" if user.may("image_publish") and has_image else None,
            False,
        ),
    ]
