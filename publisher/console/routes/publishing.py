"""The form that publishes an image: which image, with which account, to which target."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from fastapi import APIRouter, BackgroundTasks, Response
from fastapi.responses import PlainTextResponse

from publisher.console.navigation import first_steps
from publisher.console.page_request import Form, Posted, Visit, Visiting
from publisher.console.publish_form import NOT_STORED, Draft, as_before, draft
from publisher.console.rendering import BASE, sentence, with_parameter
from publisher.core.errors import Conflict, InvalidRequest, TooMany, require_own
from publisher.core.ticket import Ticket
from publisher.core.uris import parse_id
from publisher.services import publishing
from publisher.store.new_tickets import IdempotencyKey
from publisher.web.error_handlers import status_of
from publisher.web.request import API, WriterRoute, base_url, wake_later

router = APIRouter(route_class=WriterRoute)

_NEW = "/publications/new"
_ENTITLEMENT = "image_publish"
_WITH_ANY_ACCOUNT = ("image", "account", "platform", "displayName")
"""The fields that keep their values when another account is chosen."""
_PAGE_ID = "page"
"""A field of the form with a value of its own in each page."""
_PAGE_ID_MAX = 64


@router.get(_NEW)
def new_publication(visit: Visiting) -> Response:
    """Show the form. The address can choose `image` and `account`.

    With `again`, the number of a ticket, all fields are filled in as they were for that ticket.
    """
    visit.require(_ENTITLEMENT)
    given = dict(visit.request.query_params)
    if again := given.pop("again", ""):
        return _page(visit, _draft(visit, _as_before(visit, again) | given))
    return _page(visit, _draft(visit, given, recall=True))


@router.post(_NEW)
def publish(visit: Visiting, form: Posted, after: BackgroundTasks) -> Response:
    """Publish what the form describes or, with `show`, show the form again for what was chosen."""
    visit.require(_ENTITLEMENT)
    if "show" in form:
        return _page(visit, _shown(visit, form))
    drafted = _draft(visit, form)
    if drafted.errors:
        return _page(visit, drafted, drafted.errors, 400)
    services = visit.services
    try:
        accepted = publishing.publish(
            visit.store,
            services.sealer,
            drafted.request,
            _key(visit, form),
            policy=services.policy,
            wake=wake_later(after, services.wakeups.ticket),
        )
    except InvalidRequest as error:
        return _page(visit, drafted, drafted.field_errors(error), 400)
    except (Conflict, TooMany) as error:
        return _page(visit, drafted, {"": sentence(str(error))}, status_of(error))
    return _accepted(visit, accepted.ticket)


@router.post(_NEW + "/command")
def command(visit: Visiting, form: Posted) -> Response:
    """Return the equivalent curl command, as far as the form is filled in."""
    visit.require(_ENTITLEMENT)
    return PlainTextResponse(_command(visit, _draft(visit, form)))


def _accepted(visit: Visit, ticket: Ticket) -> Response:
    return visit.redirect(f"/publications/{ticket.id}", f"Ticket {ticket.id} accepted.")


def _key(visit: Visit, form: Form) -> IdempotencyKey | None:
    """Return the key of this page's form, so that a second click or a repeated submission makes no second ticket."""
    if not (page := form.get(_PAGE_ID, "")[:_PAGE_ID_MAX]):
        return None
    filled_in = sorted((name, value) for name, value in form.multi_items() if name != "csrf")
    fingerprints = tuple(visit.services.sealer.fingerprints(json.dumps(filled_in).encode()))
    return IdempotencyKey(
        visit.user.login, f"console {page}", fingerprints, visit.services.settings.idempotency_seconds
    )


def _draft(visit: Visit, form: Mapping[str, str], *, recall: bool = False) -> Draft:
    return draft(visit.store, visit.user.login, visit.owner, form, recall=recall)


def _shown(visit: Visit, form: Form) -> Draft:
    """Keep what was filled in; if another account was chosen, recall that account's target instead."""
    if form.get("shown") in (None, form.get("account")):
        return _draft(visit, form)
    return _draft(visit, {name: form[name] for name in _WITH_ANY_ACCOUNT if name in form}, recall=True)


def _as_before(visit: Visit, id: str) -> dict[str, str]:
    """Fill the form in like a ticket. Raises `NotFound` if it is missing or belongs to someone else."""
    number = parse_id(id)
    found = visit.store.tickets.get(number) if number is not None else None
    return as_before(visit.store, visit.owner, require_own(found, "there is no such ticket", visit.owner))


def _store_at(visit: Visit, drafted: Draft) -> str | None:
    """Return the address that stores an account and returns here.

    None if the user may not store accounts, or publishes for someone else.
    """
    if not visit.may("cloud_account_create") or drafted.owner != visit.user.login:
        return None
    here = BASE + _NEW
    here = with_parameter(here, "image", drafted.image.id) if drafted.image else here
    return with_parameter(f"{BASE}/accounts/new", "next", here)


def _command(visit: Visit, drafted: Draft) -> str:
    base = base_url(visit.request)
    return drafted.command(f"{base}{API}", visit.user.login)


def _page(visit: Visit, drafted: Draft, errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    return visit.page(
        "publishing/new.html",
        status=status,
        draft=drafted,
        not_stored=NOT_STORED,
        page_id=secrets.token_urlsafe(16),
        errors=errors,
        store_at=_store_at(visit, drafted),
        command=_command(visit, drafted),
        steps=first_steps(visit.store, visit.user),
    )
