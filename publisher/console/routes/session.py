"""Signing in, and out."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from publisher.console import BASE, cookies
from publisher.console.paths import local
from publisher.console.visit import Posted, Visiting, page
from publisher.core.errors import NotAllowed, NotAuthenticated
from publisher.core.uris import user_uri
from publisher.intake.exchange import actor, address, services

router = APIRouter()
signed_in_router = APIRouter()

_LOGIN_MAX = 255
_PASSWORD_MAX = 4096
_HOME = f"{BASE}/publications"


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "") -> Response:
    return _page(request, next, "")


def from_here(request: Request) -> None:
    """Nobody signs in by a form of another site, and so unknowingly as somebody else. Raises `NotAllowed`."""
    if request.headers.get("sec-fetch-site") == "same-origin":
        return
    ours = {request.url.netloc, urlsplit(services(request).settings.public_url).netloc} - {""}
    if _netloc(request.headers.get("origin", "")) not in ours:
        raise NotAllowed("this form was not made by the console; load its page again")


@router.post("/sign-in", dependencies=[Depends(from_here)])
def sign_in(request: Request, form: Posted) -> Response:
    made = services(request)
    login, password = form.get("login", "").strip()[:_LOGIN_MAX], form.get("password", "")[:_PASSWORD_MAX]
    try:
        user, password_hash = made.authenticator.verified(login, password, address(request), door="console")
        made.throttle.users.count(user.login)
        seconds, idle_seconds = made.settings.session_seconds, made.settings.session_idle_seconds
        value, _ = made.store.sessions.begin(user.login, password_hash, seconds=seconds, idle_seconds=idle_seconds)
    except NotAuthenticated:
        return _page(request, form.get("next", ""), login, wrong=True)
    # Another session, whatever cookie there was: nobody else can know this one.
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


def _page(request: Request, next: str, login: str, *, wrong: bool = False) -> Response:
    shown = {"next": local(next) or _HOME, "login": login, "wrong": wrong}
    return page(request, "sign_in.html", status=401 if wrong else 200, visit=None, **shown)


def _netloc(url: str) -> str | None:
    """None where it is no URL."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None
