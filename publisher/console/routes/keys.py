"""Pages for API keys: list, add and delete. Only the page that creates a key shows its secret key."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from publisher.console.page_request import Posted, Visit, Visiting, page_router
from publisher.console.rendering import field_errors
from publisher.core.errors import InvalidRequest
from publisher.web.auth import new_api_key
from publisher.web.request import Id

router = page_router()

_ENTITLEMENT = "api_key_access"


@router.get("/keys")
def keys(visit: Visiting) -> Response:
    visit.require(_ENTITLEMENT)
    return _list(visit, {})


@router.post("/keys")
def create(visit: Visiting, form: Posted) -> Response:
    visit.require(_ENTITLEMENT)
    name, description = form.get("name", "").strip(), form.get("description", "").strip()
    try:
        key, secret = new_api_key(visit.store, visit.services.sealer, visit.user.login, name, description)
    except InvalidRequest as error:
        return _list(visit, form, field_errors(error), 400)
    return visit.page("keys/created.html", key=key, secret=secret, status=201)


@router.get("/keys/{id}/delete")
def delete_page(visit: Visiting, id: Id) -> Response:
    """Show what the deletion would do."""
    visit.require(_ENTITLEMENT)
    return visit.page("keys/delete.html", key=visit.store.api_keys.get(visit.owner, id))


@router.post("/keys/{id}/delete")
def delete(visit: Visiting, id: Id) -> Response:
    visit.require(_ENTITLEMENT)
    key = visit.store.api_keys.get(visit.owner, id)
    visit.store.api_keys.remove(key.owner, id)
    return visit.redirect("/keys", f"API key {key.name} deleted.")


def _list(visit: Visit, form: Mapping[str, str], errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    found = visit.store.api_keys.list(visit.owner)
    return visit.page("keys/list.html", status=status, keys=found, form=form, errors=errors)
