"""Pages for users and their roles, for administrators: list, add, change rights and password, delete."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from publisher.console.page_request import Form, Posted, Visit, Visiting, page_router
from publisher.console.rendering import PASSWORD_MIN, field_errors, new_password, sentence
from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.uris import user_uri
from publisher.services import first_user
from publisher.store.users import ENTITLEMENT_DESCRIPTIONS, Role, User

router = page_router()

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
