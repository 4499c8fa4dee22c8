"""Pages for the signed-in user: rights, active sessions and password."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response

from publisher.console import cookies
from publisher.console.form_fields import told
from publisher.console.new_password import new_password
from publisher.console.page_request import Posted, Visit, Visiting
from publisher.core.errors import InvalidRequest, NotAuthenticated
from publisher.core.uris import user_uri
from publisher.services import first_user
from publisher.store.sessions import session_id
from publisher.store.users import ENTITLEMENT_DESCRIPTIONS
from publisher.web.request import address
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)


@router.get("/me")
def me(visit: Visiting) -> Response:
    return _page(visit)


@router.post("/me/password")
def change_password(visit: Visiting, form: Posted) -> Response:
    services, login = visit.services, visit.user.login
    try:
        # Limited like sign-in: somebody at an unlocked browser must not be able to guess the password here.
        services.authenticator.sign_in(login, form.get("current", ""), address(visit.request), door="console")
    except NotAuthenticated:
        return _page(visit, {"current": "Current password is wrong."}, 400)
    try:
        password_hash = visit.store.users.set_password(login, new_password(form))
    except InvalidRequest as error:
        return _page(visit, told(error), 400)
    first_user.forget_password(services.settings, login)
    # This ended all sessions of the user, including the current one, so begin a new one here.
    settings = services.settings
    seconds, idle_seconds = settings.session_seconds, settings.session_idle_seconds
    value, _ = services.store.sessions.begin(login, password_hash, seconds=seconds, idle_seconds=idle_seconds)
    response = visit.redirect("/me", "Your password is changed. Wherever else you were signed in, you are no more.")
    cookies.set_session(visit.request, response, value, seconds)
    return response


@router.post("/me/sessions/{id}/end")
def end_session(visit: Visiting, id: str) -> Response:
    """End another session of the user."""
    visit.store.sessions.end_one(visit.user.login, id)
    visit.audit("session.end", user_uri(visit.user.login), "elsewhere")
    return visit.redirect("/me", "You are signed out there.")


def _page(visit: Visit, errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    settings = visit.services.settings
    return visit.page(
        "me.html",
        status=status,
        errors=errors,
        entitlements={name: words for name, words in ENTITLEMENT_DESCRIPTIONS.items() if visit.may(name)},
        sessions=visit.store.sessions.of(visit.user.login, idle_seconds=settings.session_idle_seconds),
        this=session_id(cookies.session_value(visit.request) or ""),
    )
