"""Pages about users: sign in and out, one's own profile and API keys; for administrators, all users and roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from publisher.console.page_request import (
    Form,
    Id,
    Posted,
    Visit,
    Visiting,
    drop_session,
    page,
    page_router,
    session_value,
    set_session,
)
from publisher.console.rendering import BASE, PASSWORD_MIN, field_errors, local, new_password, sentence
from publisher.core.errors import Conflict, InvalidRequest, NotAllowed, NotAuthenticated, NotFound
from publisher.core.uris import user_uri
from publisher.services import first_user
from publisher.store import ENTITLEMENT_DESCRIPTIONS, Role, User, session_id
from publisher.web import From, Router, actor, address, new_api_key, services

sign_in_router = Router()
router = page_router()

_LOGIN_MAX = 255
_PASSWORD_MAX = 4096
_HOME = f"{BASE}/publications"


# Signing in ----------------------------------------------------------------------------------------------------------


@sign_in_router.get("/sign-in")
def sign_in_page(request: Request, next: str = "") -> Response:
    return _sign_in_page(request, next, "")


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


@sign_in_router.post("/sign-in")
def sign_in(request: Request, checked: FromHere, form: Posted, verified: Verified) -> Response:
    made = services(request)
    if verified is None:
        return _sign_in_page(request, form.get("next", ""), _login(form), wrong=True)
    user, password_hash = verified
    made.throttle.users.count(user.login)
    try:
        seconds, idle_seconds = made.settings.session_seconds, made.settings.session_idle_seconds
        value, _ = made.store.sessions.begin(user.login, password_hash, seconds=seconds, idle_seconds=idle_seconds)
    except NotAuthenticated:
        return _sign_in_page(request, form.get("next", ""), _login(form), wrong=True)
    # Always begin a new session, whatever cookie the browser sent: nobody else can know its value.
    if before := session_value(request):
        made.store.sessions.end(before)
    made.store.audit.add(actor(request, user.login, "console"), "session.begin", user_uri(user.login))
    response = RedirectResponse(local(form.get("next", "")) or _HOME, 303)
    set_session(request, response, value, seconds)
    return response


@router.post("/sign-out")
def sign_out(visit: Visiting) -> Response:
    visit.store.sessions.end(session_value(visit.request) or "")
    visit.audit("session.end", user_uri(visit.user.login))
    response = visit.redirect("/sign-in", "You are signed out.")
    drop_session(visit.request, response)
    return response


def _login(form: Form) -> str:
    return form.get("login", "").strip()[:_LOGIN_MAX]


def _sign_in_page(request: Request, next: str, login: str, *, wrong: bool = False) -> Response:
    shown = {"next": local(next) or _HOME, "login": login, "wrong": wrong}
    return page(request, "sign_in.html", status=401 if wrong else 200, visit=None, **shown)


def _netloc(url: str) -> str | None:
    """Return the host and port of a URL; None if it is not valid."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


# One's own profile ----------------------------------------------------------------------------------------------------


@router.get("/me")
def me(visit: Visiting) -> Response:
    return _profile(visit)


@router.post("/me/password")
def change_own_password(visit: Visiting, form: Posted) -> Response:
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


@router.post("/me/sessions/{id}/end")
def end_session(visit: Visiting, id: str) -> Response:
    """End another session of the user."""
    visit.store.sessions.end_one(visit.user.login, id)
    visit.audit("session.end", user_uri(visit.user.login), "elsewhere")
    return visit.redirect("/me", "Session ended.")


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


# API keys ------------------------------------------------------------------------------------------------------------

_KEYS = "api_key_access"


@router.get("/keys")
def keys(visit: Visiting) -> Response:
    visit.require(_KEYS)
    return _keys_page(visit, {})


@router.post("/keys")
def create_key(visit: Visiting, form: Posted) -> Response:
    visit.require(_KEYS)
    name, description = form.get("name", "").strip(), form.get("description", "").strip()
    try:
        key, secret = new_api_key(visit.store, visit.services.sealer, visit.user.login, name, description)
    except InvalidRequest as error:
        return _keys_page(visit, form, field_errors(error), 400)
    return visit.page("keys/created.html", key=key, secret=secret, status=201)


@router.get("/keys/{id}/delete")
def delete_key_page(visit: Visiting, id: Id) -> Response:
    """Show what the deletion would do."""
    visit.require(_KEYS)
    return visit.page("keys/delete.html", key=visit.store.api_keys.get(visit.owner, id))


@router.post("/keys/{id}/delete")
def delete_key(visit: Visiting, id: Id) -> Response:
    visit.require(_KEYS)
    key = visit.store.api_keys.get(visit.owner, id)
    visit.store.api_keys.remove(key.owner, id)
    return visit.redirect("/keys", f"API key {key.name} deleted.")


def _keys_page(visit: Visit, form: Mapping[str, str], errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    found = visit.store.api_keys.list(visit.owner)
    return visit.page("keys/list.html", status=status, keys=found, form=form, errors=errors)


# Users ---------------------------------------------------------------------------------------------------------------

_NEW = "/users/-/new"
"""A login cannot contain a slash, so no user's page has this path."""


@router.get("/users")
def users(visit: Visiting) -> Response:
    visit.require_administrator()
    return visit.page("users/list.html", users=visit.store.users.list(), entitlements=len(ENTITLEMENT_DESCRIPTIONS))


@router.get(_NEW)
def new_user(visit: Visiting) -> Response:
    visit.require_administrator()
    return _new_user_page(visit, {}, chosen=frozenset())


@router.post(_NEW)
def create(visit: Visiting, form: Posted) -> Response:
    visit.require_administrator()
    chosen, roles = frozenset(form.getlist("entitlements")), frozenset(form.getlist("roles"))
    try:
        user = visit.store.users.add(
            form.get("login", "").strip(),
            new_password(form),
            administrator="administrator" in form,
            entitlements=chosen,
            roles=roles,
        )
    except InvalidRequest as error:
        return _new_user_page(visit, form, field_errors(error), chosen=chosen, roles=roles)
    except Conflict as error:
        return _new_user_page(visit, form, {"login": sentence(str(error))}, chosen=chosen, roles=roles, status=409)
    return visit.redirect("/users", f"User {user.login} created.")


@router.get("/users/{login}")
def user(visit: Visiting, login: str) -> Response:
    visit.require_administrator()
    return _user_page(visit, _user(visit, login))


@router.post("/users/{login}/rights")
def change_rights(visit: Visiting, form: Posted, login: str) -> Response:
    visit.require_administrator()
    present = _user(visit, login)
    wanted, have = frozenset(form.getlist("roles")), frozenset(role.name for role in present.roles)
    rights = "administrator" in form, frozenset(form.getlist("entitlements"))
    try:
        if wanted != have:
            visit.store.users.change_roles(login, add=wanted - have, remove=have - wanted)
        if rights != (present.administrator, present.entitlements):
            visit.store.users.change_rights(login, administrator=rights[0], entitlements=rights[1])
    except (InvalidRequest, Conflict) as error:
        return _user_page(
            visit, _user(visit, login), {"": sentence(str(error))}, 409 if isinstance(error, Conflict) else 400
        )
    return visit.redirect(f"/{user_uri(login)}", "Saved. The change takes effect with the next request.")


@router.post("/users/{login}/password")
def change_password(visit: Visiting, form: Posted, login: str) -> Response:
    visit.require_administrator()
    present = _user(visit, login)
    if login == visit.user.login:
        return visit.redirect("/me")
    try:
        visit.store.users.set_password(login, new_password(form))
    except InvalidRequest as error:
        return _user_page(visit, present, field_errors(error), 400)
    first_user.forget_password(visit.services.settings, login)
    return visit.redirect(f"/{user_uri(login)}", f"Password changed. {login} is signed out everywhere.")


@router.get("/users/{login}/delete")
def delete_page(visit: Visiting, login: str) -> Response:
    """Show what the deletion would do."""
    visit.require_administrator()
    store = visit.store
    found = _user(visit, login)
    return visit.page(
        "users/delete.html",
        who=found,
        images=bool(store.images.latest(1, owner=login)),
        owned=[
            (len(store.accounts.list(login)), "cloud account"),
            (len(store.api_keys.list(login)), "API key"),
            (len(store.appliances.list(login)), "appliance"),
        ],
    )


@router.post("/users/{login}/delete")
def delete(visit: Visiting, login: str) -> Response:
    visit.require_administrator()
    visit.store.users.remove(_user(visit, login).login)
    return visit.redirect("/users", f"User {login} deleted.")


def _user(visit: Visit, login: str) -> User:
    """Return a user. Raises `NotFound`."""
    found = None if "\0" in login else visit.store.users.get(login)
    if found is None:
        raise NotFound(f"There is no user {login}.")
    return found


def _role_options(visit: Visit) -> list[tuple[str, str]]:
    """Return the name and the description of each role."""
    return [(each.name, each.description or each.name) for each in visit.store.roles.list()]


def _new_user_page(
    visit: Visit,
    form: Form | Mapping[str, str],
    errors: Mapping[str, str] = {},
    *,
    chosen: frozenset[str],
    roles: frozenset[str] = frozenset(),
    status: int | None = None,
) -> Response:
    return visit.page(
        "users/new.html",
        status=status or (400 if errors else 200),
        form=form,
        errors=errors,
        password_min=PASSWORD_MIN,
        entitlements=ENTITLEMENT_DESCRIPTIONS,
        role_options=_role_options(visit),
        chosen=chosen,
        chosen_roles=roles,
    )


def _user_page(visit: Visit, found: User, errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    return visit.page(
        "users/user.html",
        status=status,
        who=found,
        errors=errors,
        password_min=PASSWORD_MIN,
        entitlements=ENTITLEMENT_DESCRIPTIONS,
        role_options=_role_options(visit),
        chosen_roles=frozenset(role.name for role in found.roles),
    )


# Roles ---------------------------------------------------------------------------------------------------------------


@router.get("/roles")
def roles(visit: Visiting) -> Response:
    visit.require_administrator()
    return _roles_page(visit, {})


@router.post("/roles")
def create_role(visit: Visiting, form: Posted) -> Response:
    visit.require_administrator()
    chosen = frozenset(form.getlist("entitlements"))
    name, description = form.get("name", "").strip(), form.get("description", "").strip()
    try:
        role = visit.store.roles.add(name, entitlements=chosen, description=description)
    except InvalidRequest as error:
        return _roles_page(visit, form, field_errors(error), chosen, 400)
    except Conflict as error:
        return _roles_page(visit, form, {"name": sentence(str(error))}, chosen, 409)
    return visit.redirect("/roles", f"Role {role.name} created.")


# A role's name may contain any character, including a slash, so it is given in the query.


@router.get("/roles/delete")
def delete_role_page(visit: Visiting, name: str) -> Response:
    """Show what the deletion would do."""
    visit.require_administrator()
    role = _role(visit, name)
    having = [user.login for user in visit.store.users.list() if name in {each.name for each in user.roles}]
    return visit.page("roles/delete.html", role=role, having=having)


@router.post("/roles/delete")
def delete_role(visit: Visiting, form: Posted) -> Response:
    visit.require_administrator()
    role = _role(visit, form.get("name", ""))
    visit.store.roles.remove(role.name)
    return visit.redirect("/roles", f"Role {role.name} deleted.")


def _role(visit: Visit, name: str) -> Role:
    """Return a role. Raises `NotFound`."""
    found = next((each for each in visit.store.roles.list() if each.name == name), None)
    if found is None:
        raise NotFound("There is no such role.")
    return found


def _roles_page(
    visit: Visit,
    form: Form | Mapping[str, str],
    errors: Mapping[str, str] = {},
    chosen: frozenset[str] = frozenset(),
    status: int = 200,
) -> Response:
    store = visit.store
    holders: dict[str, list[str]] = {}
    for user in store.users.list():
        for role in user.roles:
            holders.setdefault(role.name, []).append(user.login)
    return visit.page(
        "roles/list.html",
        status=status,
        roles=store.roles.list(),
        holders=holders,
        form=form,
        errors=errors,
        chosen=chosen,
        entitlements=ENTITLEMENT_DESCRIPTIONS,
    )
