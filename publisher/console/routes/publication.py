"""Pages for one publication: the form that creates it, its state and history; cancel, retry, delete."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.background import BackgroundTasks
from starlette.responses import PlainTextResponse, Response

from publisher.console.page_request import Form, Posted, Visit, Visiting, first_steps, page_router
from publisher.console.publish_form import NOT_STORED, Draft, as_before, draft
from publisher.console.rendering import BASE, PageParts, render, sentence, with_parameter
from publisher.console.throughput_chart import plot
from publisher.core.errors import Conflict, InvalidRequest, TooMany, parse_id, require_own
from publisher.core.ticket import HistoryEntry, Phase, State, Ticket, image_of, ticket_uri
from publisher.platforms.platform import find_platform
from publisher.services import publishing
from publisher.store import IdempotencyKey, Version
from publisher.web.error_handlers import status_of
from publisher.web.request import API, Id, base_url, wake_later

router = page_router()

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
        return _page(visit, _chosen(visit, form))
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


def _chosen(visit: Visit, form: Form) -> Draft:
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


# The page of a publication --------------------------------------------------------------------------------------------

_PATH = "/publications/{id:id}"
_LIVE = ("summary", "actions", "throughput", "timeline", "cloud")
"""The page's changing elements, each with a template of its own."""


@dataclass(frozen=True, slots=True)
class TimelineStep:
    at: float
    words: str
    kind: str
    """The kind of step: `queued`, `claimed`, `phase`, `retrying`, `cancelling`, `published`, `failed`, `cancelled`."""
    seconds: float | None
    """Seconds until the next step; None for the last."""


@router.get(_PATH)
def publication(visit: Visiting, id: Id) -> Response:
    ticket = _ticket(visit, id)
    image = image_of(ticket, visit.store.images.get(ticket.image_id))
    return visit.page(
        "publications/publication.html",
        image=image,
        account=_account(ticket),
        notifications=visit.store.notifications.list(id),
        uri=f"{API}/{_uri(ticket)}",
        **_shown(visit, ticket),
    )


@router.get(_PATH + "/events")
def events(visit: Visiting, id: Id) -> Response:
    _ticket(visit, id)
    return visit.live(Parts(visit, id))


class Parts:
    """Reads a ticket repeatedly, for its live updates."""

    def __init__(self, visit: Visit, id: int) -> None:
        self._visit = visit
        self._id = id
        self._seen: Version | None = None
        self._parts = PageParts({})

    def __call__(self) -> PageParts:
        """Return the current elements of the page. Raises `NotFound` once the ticket is deleted."""
        version = self._visit.store.tickets.versions([self._id]).get(self._id)
        if version is None or version != self._seen:
            shown = _shown(self._visit, _ticket(self._visit, self._id))
            self._parts = PageParts({name: render(f"publications/{name}.html", **shown) for name in _LIVE})
            self._seen = version
        return self._parts


@router.get(_PATH + "/cancel")
def ask_to_cancel(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if ticket.final:
        raise Conflict(f"ticket {id} has already ended: {ticket.state}")
    return _confirm(visit, "cancel", ticket)


@router.post(_PATH + "/cancel")
def cancel(visit: Visiting, after: BackgroundTasks, id: Id) -> Response:
    _changeable(visit, id)
    cancelled = publishing.cancel(visit.store, id, wake_later(after, visit.services.wakeups.ticket))
    if cancelled.final:
        return visit.redirect(f"/publications/{id}", "Ticket cancelled.")
    message = "The upload is being stopped, and what was uploaded is being deleted."
    return visit.redirect(f"/publications/{id}", message)


@router.get(_PATH + "/retry")
def ask_to_retry(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if ticket.state not in (State.FAILED, State.CANCELLED):
        raise Conflict(f"ticket {id} is {ticket.state}; only failed and cancelled tickets can be retried")
    return _confirm(visit, "retry", ticket)


@router.post(_PATH + "/retry")
def retry(visit: Visiting, after: BackgroundTasks, id: Id) -> Response:
    _changeable(visit, id)
    publishing.retry(visit.store, id, wake_later(after, visit.services.wakeups.ticket))
    return visit.redirect(f"/publications/{id}", "Ticket queued again.")


@router.get(_PATH + "/delete")
def ask_to_delete(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if not ticket.final:
        raise Conflict(f"ticket {id} is {ticket.state}; cancel it first")
    return _confirm(visit, "delete", ticket)


@router.post(_PATH + "/delete")
def delete(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    visit.store.tickets.remove(id)
    return visit.redirect("/publications", f"Ticket {id} ({ticket.name}) deleted.")


def _ticket(visit: Visit, id: int) -> Ticket:
    """Return a ticket. Raises `NotFound` if it is missing or belongs to someone else."""
    return require_own(visit.store.tickets.get(id), f"There is no ticket {id}.", visit.owner)


def _account(ticket: Ticket) -> list[tuple[str, Any]]:
    """The elements of the ticket's account, as they were when the ticket was created. Secrets are left out."""
    platform = find_platform(ticket.platform)
    names = [each.name for each in platform.account_fields if not each.secret] if platform else []
    if ticket.account_id is not None:
        names.append("name")
    return [(name, ticket.account.get(name)) for name in names]


def _changeable(visit: Visit, id: int) -> Ticket:
    """Return a ticket that the user may change. Raises `NotFound`, `NotAllowed`."""
    ticket = _ticket(visit, id)
    visit.require(_ENTITLEMENT)
    return ticket


def _shown(visit: Visit, ticket: Ticket) -> dict[str, Any]:
    history = visit.store.tickets.history(ticket.id)
    return {
        "ticket": ticket,
        "rate": visit.store.publications.rates([ticket.id]).get(ticket.id) if ticket.final else None,
        "steps": _timeline(history),
        "plot": plot(visit.store.tickets.samples(ticket.id)),
        "may_change": visit.may(_ENTITLEMENT),
    }


def _confirm(visit: Visit, action: str, ticket: Ticket) -> Response:
    left = [each.cloud_id for each in visit.store.tickets.journal(ticket.id) if each.state != "gone"]
    return visit.page(f"publications/{action}.html", ticket=ticket, left=left)


def _uri(ticket: Ticket) -> str:
    return ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)


def _timeline(history: Sequence[HistoryEntry]) -> list[TimelineStep]:
    """Return the steps of a history, oldest first."""
    following = [each.at for each in history[1:]] + [None]
    return [
        TimelineStep(entry.at, entry.words, _kind(entry), None if until is None else max(until - entry.at, 0.0))
        for entry, until in zip(history, following, strict=True)
    ]


def _kind(entry: HistoryEntry) -> str:
    match entry.from_state, entry.to_state:
        case State.PUBLISHING, State.QUEUED:
            return "retrying"
        case _, State.PUBLISHING | State.CANCELLING if entry.phase is Phase.PREPARING:
            return "claimed"
        case _, State.PUBLISHING:
            return "phase"
        case _, state:
            return state
