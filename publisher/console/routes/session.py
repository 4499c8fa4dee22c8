"""Sign in and sign out, and the page of the signed-in user: rights, active sessions and password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from publisher.console.page_request import (
    Form,
    Posted,
    Visit,
    Visiting,
    drop_session,
    page,
    page_router,
    session_value,
    set_session,
)
from publisher.console.rendering import BASE, PASSWORD_MIN, field_errors, local, new_password
from publisher.core.errors import InvalidRequest, NotAllowed, NotAuthenticated
from publisher.core.uris import user_uri
from publisher.services import first_user
from publisher.store.sessions import session_id
from publisher.store.users import ENTITLEMENT_DESCRIPTIONS, User
from publisher.web.request import actor, address, services
from publisher.web.routing import From, Router

router = Router()
signed_in_router = page_router()

_LOGIN_MAX = 255
_PASSWORD_MAX = 4096
_HOME = f"{BASE}/publications"


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "") -> Response:
    return _page(request, next, "")


def from_here(request: Request) -> None:
    """Refuse sign-in forms of other sites, which could sign a user in as somebody else. Raises `NotAllowed`."""
    if request.headers.get("sec-fetch-site") == "same-origin":
        return
    ours = {request.url.netloc, urlsplit(services(request).settings.public_url).netloc} - {""}
    if _netloc(request.headers.get("origin", "")) not in ours:
        raise NotAllowed("this form is not from the console; reload its page")


FromHere = Annotated[None, From(from_here)]


def _verified(request: Request, form: Posted) -> tuple[User, str] | None:
    """Return the user and the matching password hash; None if login or password is wrong. Raises `TooMany`.

    It runs apart, so that a request that waits for a password hash holds no thread that others need to write.
    """
    login, password = _login(form), form.get("password", "")[:_PASSWORD_MAX]
    try:
        return services(request).authenticator.verified(login, password, address(request), door="console")
    except NotAuthenticated:
        return None


Verified = Annotated[tuple[User, str] | None, From(_verified, apart=lambda _: True)]


@router.post("/sign-in")
def sign_in(request: Request, checked: FromHere, form: Posted, verified: Verified) -> Response:
    made = services(request)
    if verified is None:
        return _page(request, form.get("next", ""), _login(form), wrong=True)
    user, password_hash = verified
    made.throttle.users.count(user.login)
    try:
        seconds, idle_seconds = made.settings.session_seconds, made.settings.session_idle_seconds
        value, _ = made.store.sessions.begin(user.login, password_hash, seconds=seconds, idle_seconds=idle_seconds)
    except NotAuthenticated:
        return _page(request, form.get("next", ""), _login(form), wrong=True)
    # Always begin a new session, whatever cookie the browser sent: nobody else can know its value.
    if before := session_value(request):
        made.store.sessions.end(before)
    made.store.audit.add(actor(request, user.login, "console"), "session.begin", user_uri(user.login))
    response = RedirectResponse(local(form.get("next", "")) or _HOME, 303)
    set_session(request, response, value, seconds)
    return response


@signed_in_router.post("/sign-out")
def sign_out(visit: Visiting) -> Response:
    visit.store.sessions.end(session_value(visit.request) or "")
    visit.audit("session.end", user_uri(visit.user.login))
    response = visit.redirect("/sign-in", "You are signed out.")
    drop_session(visit.request, response)
    return response


@signed_in_router.get("/me")
def me(visit: Visiting) -> Response:
    return _profile(visit)


@signed_in_router.post("/me/password")
def change_password(visit: Visiting, form: Posted) -> Response:
    services, login = visit.services, visit.user.login
    try:
        # Limited like sign-in: somebody at an unlocked browser must not be able to guess the password here.
        services.authenticator.sign_in(login, form.get("current", ""), address(visit.request), door="console")
    except NotAuthenticated:
        return _profile(visit, {"current": "The current password is wrong."}, 400)
    try:
        password_hash = visit.store.users.set_password(login, new_password(form))
    except InvalidRequest as error:
        return _profile(visit, field_errors(error), 400)
    first_user.forget_password(services.settings, login)
    # This ended all sessions of the user, including the current one, so begin a new one here.
    settings = services.settings
    seconds, idle_seconds = settings.session_seconds, settings.session_idle_seconds
    value, _ = services.store.sessions.begin(login, password_hash, seconds=seconds, idle_seconds=idle_seconds)
    response = visit.redirect("/me", "Password changed. You are signed out everywhere else.")
    set_session(visit.request, response, value, seconds)
    return response


@signed_in_router.post("/me/sessions/{id}/end")
def end_session(visit: Visiting, id: str) -> Response:
    """End another session of the user."""
    visit.store.sessions.end_one(visit.user.login, id)
    visit.audit("session.end", user_uri(visit.user.login), "elsewhere")
    return visit.redirect("/me", "Session ended.")


def _login(form: Form) -> str:
    return form.get("login", "").strip()[:_LOGIN_MAX]


def _page(request: Request, next: str, login: str, *, wrong: bool = False) -> Response:
    shown = {"next": local(next) or _HOME, "login": login, "wrong": wrong}
    return page(request, "sign_in.html", status=401 if wrong else 200, visit=None, **shown)


def _netloc(url: str) -> str | None:
    """Return the host and port of a URL; None if it is not valid."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _profile(visit: Visit, errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    settings = visit.services.settings
    return visit.page(
        "me.html",
        status=status,
        errors=errors,
        password_min=PASSWORD_MIN,
        entitlements={name: words for name, words in ENTITLEMENT_DESCRIPTIONS.items() if visit.may(name)},
        sessions=visit.store.sessions.of(visit.user.login, idle_seconds=settings.session_idle_seconds),
        this=session_id(session_value(visit.request) or ""),
    )
