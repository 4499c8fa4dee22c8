"""Pages for cloud accounts: list, add, change and delete. Secrets are stored, and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.responses import Response

from publisher.console.page_request import Flash, Id, Posted, Visit, Visiting, page_router
from publisher.console.rendering import (
    BASE,
    Element,
    account_elements,
    chosen_platform,
    field_errors,
    filled_in,
    installed_platforms,
    local,
    sentence,
    template_element,
    with_parameter,
)
from publisher.core.cloud_check import Explored
from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.platforms.platform import Platform
from publisher.services import checks, cloud_accounts
from publisher.store import StoredAccount
from publisher.web import AnsweredLater, check_results

router = page_router()

_CREATE, _DELETE = "cloud_account_create", "cloud_account_delete"
_KINDS = ("projects", "regions", "networks")
_SHOWN_MAX = 20
"""Number of projects in the message after a test: a cookie holds it."""


@router.get("/accounts")
def accounts(visit: Visiting) -> Response:
    return visit.page("accounts/list.html", accounts=visit.store.accounts.list(visit.owner))


@router.get("/accounts/new")
def new_account(visit: Visiting, platform: str = "", next: str = "") -> Response:
    """Show an empty form. `next`: the page to continue on, with the new account chosen."""
    visit.require(_CREATE)
    return _form(visit, None, {"next": next, "platform": platform})


@router.post("/accounts/new")
def create(visit: Visiting, form: Posted) -> Response:
    """Store an account; or, with `show`, show the form again for the chosen platform."""
    visit.require(_CREATE)
    platform = chosen_platform(form.get("platform", ""))
    if "show" in form:
        return _form(visit, None, form)
    document, errors = filled_in(platform.all_account_fields, form)
    if errors:
        return _form(visit, None, form, errors)
    fields, secrets = platform.account_parts(document)
    try:
        account = cloud_accounts.create(
            visit.store,
            visit.services.sealer,
            owner=visit.user.login,
            name=form.get("name", "").strip(),
            platform=platform.name,
            fields=fields,
            secrets=secrets,
            policy=visit.services.policy,
        )
    except InvalidRequest as error:
        return _form(visit, None, form, field_errors(error))
    except Conflict as error:
        return _form(visit, None, form, {"name": sentence(str(error))}, 409)
    next = local(form.get("next", ""))
    path = with_parameter(next, "account", account.id).removeprefix(BASE) if next else "/accounts"
    return visit.redirect(path, f"Account {account.name} added.")


@router.get("/accounts/{id}")
def account(visit: Visiting, id: Id) -> Response:
    found = _found(visit, id)
    return _form(visit, found, {"name": found.name} | _texts(found.fields))


@router.post("/accounts/{id}")
def change(visit: Visiting, form: Posted, id: Id) -> Response:
    visit.require(_CREATE)
    present = _found(visit, id)
    platform = chosen_platform(present.platform)
    document, errors = filled_in(platform.all_account_fields, form)
    if errors:
        return _form(visit, present, form, errors)
    fields, secrets = platform.account_parts(document)
    # An emptied field is removed; fields that the form does not have stay.
    shown = {each.name for each in _elements(platform)} - platform.secret_names
    changed = {name: fields.get(name) for name in shown if fields.get(name) != present.fields.get(name)}
    try:
        cloud_accounts.change(
            visit.store,
            visit.services.sealer,
            present,
            name=form.get("name", "").strip(),
            fields=changed,
            secrets=secrets,
            policy=visit.services.policy,
        )
    except InvalidRequest as error:
        return _form(visit, present, form, field_errors(error))
    except Conflict as error:
        return _form(visit, present, form, {"name": sentence(str(error))}, 409)
    return visit.redirect("/accounts", "Account saved. Running tickets keep the old settings.")


@router.post("/accounts/{id}/test")
def test(visit: Visiting, id: Id) -> Response:
    """Have a worker sign in with the account, and show what it found."""
    visit.require(_CREATE)
    found = _found(visit, id)
    check_id = checks.begin_account_test(visit.store, found)
    return AnsweredLater(partial(_tested, visit, found, check_id))


async def _tested(visit: Visit, account: StoredAccount, check_id: int) -> Response:
    result = await check_results(visit.request).result(check_id)
    words = f"Account {account.name}: {sentence(result.words)}"
    found = result.explored or Explored()
    for kind in _KINDS:
        if places := found.places(kind):
            shown = [each.name for each in places[:_SHOWN_MAX]]
            more = [f"and {len(places) - _SHOWN_MAX} more"] if len(places) > _SHOWN_MAX else []
            words += f" {kind.capitalize()}: {', '.join(shown + more)}."
    return visit.redirect("/accounts", Flash(words, "done" if result.ok else "problem"))


@router.get("/accounts/{id}/delete")
def delete_page(visit: Visiting, id: Id) -> Response:
    """Show what the deletion would do."""
    visit.require(_DELETE)
    return visit.page("accounts/delete.html", account=_found(visit, id))


@router.post("/accounts/{id}/delete")
def delete(visit: Visiting, id: Id) -> Response:
    visit.require(_DELETE)
    found = _found(visit, id)
    visit.store.accounts.remove(found.owner, id)
    return visit.redirect("/accounts", f"Account {found.name} deleted.")


def _found(visit: Visit, id: int) -> StoredAccount:
    """Return an account. Raises `NotFound` if it is missing or belongs to someone else."""
    found = visit.store.accounts.find(visit.owner, id=id)
    if found is None:
        raise NotFound(f"There is no account {id}.")
    return found


def _elements(platform: Platform, *, secrets_kept: bool = False) -> list[Element]:
    return [*account_elements(platform, secrets_kept=secrets_kept), template_element(platform)]


def _texts(fields: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value not in (None, False)}


def _form(
    visit: Visit,
    account: StoredAccount | None,
    values: Mapping[str, str],
    errors: Mapping[str, str] = {},
    status: int | None = None,
) -> Response:
    platform = chosen_platform(account.platform if account else values.get("platform", ""))
    return visit.page(
        "accounts/form.html",
        status=status or (400 if errors else 200),
        platforms=installed_platforms(),
        platform=platform,
        account=account,
        elements=_elements(platform, secrets_kept=account is not None),
        values=values,
        errors=errors,
        next=local(values.get("next", "")),
        may_change=visit.may(_CREATE),
    )
