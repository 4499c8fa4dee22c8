"""Pages for one ticket: its state and history; cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.background import BackgroundTasks
from starlette.responses import Response

from publisher.console.page_request import Visit, Visiting, page_router
from publisher.console.rendering import PageParts, render
from publisher.console.throughput_chart import plot
from publisher.core.errors import Conflict, require_own
from publisher.core.ticket import HistoryEntry, Phase, State, Ticket, image_of
from publisher.core.uris import ticket_uri
from publisher.platforms.platform import find_platform
from publisher.services import publishing
from publisher.store.ticket_rows import Version
from publisher.web.request import API, Id, wake_later

router = page_router()

_PATH = "/publications/{id:id}"
_ENTITLEMENT = "image_publish"
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
