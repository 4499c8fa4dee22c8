"""Pages for roles, for administrators: list, add and delete."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response

from publisher.console.form_fields import told
from publisher.console.page_request import Form, Posted, Visit, Visiting
from publisher.console.template_filters import sentence
from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.store.users import ENTITLEMENT_DESCRIPTIONS, Role
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)


@router.get("/roles")
def roles(visit: Visiting) -> Response:
    visit.require_administrator()
    return _page(visit, {})


@router.post("/roles")
def create(visit: Visiting, form: Posted) -> Response:
    visit.require_administrator()
    chosen = frozenset(form.getlist("entitlements"))
    name, description = form.get("name", "").strip(), form.get("description", "").strip()
    try:
        role = visit.store.roles.add(name, entitlements=chosen, description=description)
    except InvalidRequest as error:
        return _page(visit, form, told(error), chosen, 400)
    except Conflict as error:
        return _page(visit, form, {"name": sentence(str(error))}, chosen, 409)
    return visit.redirect("/roles", f"The role {role.name} can be given to users now.")


# A role's name may contain any character, including a slash, so it is given in the query.


@router.get("/roles/delete")
def delete_page(visit: Visiting, name: str) -> Response:
    """Show what the deletion would do."""
    visit.require_administrator()
    role = _found(visit, name)
    having = [user.login for user in visit.store.users.list() if name in {each.name for each in user.roles}]
    return visit.page("roles/delete.html", role=role, having=having)


@router.post("/roles/delete")
def delete(visit: Visiting, form: Posted) -> Response:
    visit.require_administrator()
    role = _found(visit, form.get("name", ""))
    visit.store.roles.remove(role.name)
    return visit.redirect("/roles", f"The role {role.name} is deleted.")


def _found(visit: Visit, name: str) -> Role:
    """Return a role. Raises `NotFound`."""
    found = next((each for each in visit.store.roles.list() if each.name == name), None)
    if found is None:
        raise NotFound("There is no such role.")
    return found


def _page(
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
