"""Sign in and sign out."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from publisher.console import BASE, cookies
from publisher.console.page_request import Form, Posted, Visiting, page
from publisher.console.paths import local
from publisher.core.errors import NotAllowed, NotAuthenticated
from publisher.core.uris import user_uri
from publisher.store.users import User
from publisher.web.request import WriterRoute, actor, address, services

router = APIRouter(route_class=WriterRoute)
signed_in_router = APIRouter(route_class=WriterRoute)

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
        raise NotAllowed("this form was not made by the console; load its page again")


def _verified(request: Request, form: Posted) -> tuple[User, str] | None:
    """Return the user and the matching password hash; None if login or password is wrong. Raises `TooMany`.

    It is a dependency of the route, so that a request that waits for a password hash holds no thread that others need
    to write.
    """
    login, password = _login(form), form.get("password", "")[:_PASSWORD_MAX]
    try:
        return services(request).authenticator.verified(login, password, address(request), door="console")
    except NotAuthenticated:
        return None


Verified = Annotated[tuple[User, str] | None, Depends(_verified)]


@router.post("/sign-in", dependencies=[Depends(from_here)])
def sign_in(request: Request, form: Posted, verified: Verified) -> Response:
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
    if before := cookies.session_value(request):
        made.store.sessions.end(before)
    made.store.audit.add(actor(request, user.login, "console"), "session.begin", user_uri(user.login))
    response = RedirectResponse(local(form.get("next", "")) or _HOME, 303)
    cookies.set_session(request, response, value, seconds)
    return response


@signed_in_router.post("/sign-out")
def sign_out(visit: Visiting) -> Response:
    visit.store.sessions.end(cookies.session_value(visit.request) or "")
    visit.audit("session.end", user_uri(visit.user.login))
    response = visit.redirect("/sign-in", "You are signed out.")
    cookies.drop_session(visit.request, response)
    return response


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
