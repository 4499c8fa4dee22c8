"""Tickets: the list, chosen by its address; one ticket's state and history; cancel, retry, withdraw, delete."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.responses import Response

from publisher.console.page_request import Id, Visit, Visiting, first_steps, page_router
from publisher.console.rendering import BASE, PageParts, plain_account_fields, render
from publisher.console.throughput_chart import plot
from publisher.core.errors import Conflict, require_own
from publisher.core.ticket import HistoryEntry, Phase, State, Ticket, image_of, ticket_uri
from publisher.core.uris import parse_id
from publisher.services import publishing
from publisher.store import COUNTED_MAX, PublicationPage, TicketFilter, Version, version_of

router = page_router()

_SEE, _CHANGE = "image_generate", "image_publish"

# The list -------------------------------------------------------------------------------------------------------------

_LIST = "/publications"
_COUNT = 50
_COUNT_SECONDS = 5.0
_TEXT_MAX = 255


@dataclass(frozen=True, slots=True)
class PublicationFilter:
    """A page of the list: the filter, and the ticket number before or after which it begins.

    Ignores unknown parameters.
    """

    wanted: TicketFilter
    before: int | None = None
    after: int | None = None
    own: bool = False
    """Whether only the owner's tickets may be shown, whatever the address says."""

    @classmethod
    def of(cls, parameters: QueryParams, owner: str | None) -> PublicationFilter:
        """Read an address. Only tickets of `owner` are shown; None: those of all users."""

        def text(name: str) -> str:
            return parameters.get(name, "").replace("\0", "").strip()[:_TEXT_MAX]

        state = text("state")
        wanted = TicketFilter(
            owner=owner or text("owner") or None,
            state=State(state) if state in list(State) else None,
            platform=text("platform"),
            words=text("q"),
        )
        before, after = text("before"), text("after")
        return cls(
            wanted,
            parse_id(before),
            parse_id(after),
            own=owner is not None,
        )

    @property
    def filtered(self) -> bool:
        return self.query != ""

    def in_state(self, state: State | None) -> str:
        """Return the address of the first page of tickets in this state."""
        return replace(self, wanted=replace(self.wanted, state=state), before=None, after=None).address

    def from_before(self, id: int) -> str:
        return replace(self, before=id, after=None).address

    def from_after(self, id: int) -> str:
        return replace(self, before=None, after=id).address

    @property
    def newest(self) -> str:
        return replace(self, before=None, after=None).address

    @property
    def address(self) -> str:
        return BASE + _LIST + self.query

    @property
    def events(self) -> str:
        """Address of the events that keep the page up to date."""
        return f"{BASE}{_LIST}/events{self.query}"

    @property
    def query(self) -> str:
        wanted = self.wanted
        parts: dict[str, Any] = {
            "state": wanted.state,
            "platform": wanted.platform,
            "owner": None if self.own else wanted.owner,
            "q": wanted.words,
            "before": self.before,
            "after": self.after,
        }
        given = {name: value for name, value in parts.items() if value not in (None, "")}
        return f"?{urlencode(given)}" if given else ""


@router.get(_LIST)
def publications(visit: Visiting) -> Response:
    visit.require(_SEE)
    listing = _listing(visit)
    counts = _counts(visit, listing)
    if not listing.filtered and not any(counts.values()):
        return visit.page("publications/welcome.html", steps=first_steps(visit.store, visit.user))
    page = _page(visit, listing)
    return visit.page(
        "publications/list.html",
        listing=listing,
        page=page,
        rates=_rates(visit, page.tickets),
        platforms=visit.store.publications.platforms(),
        counts=counts,
        counted_max=COUNTED_MAX,
        owner_shown=visit.user.administrator,
    )


@router.get(_LIST + "/events")
def list_events(visit: Visiting) -> Response:
    visit.require(_SEE)
    return visit.live(Rows(visit, _listing(visit)))


class Rows:
    """Reads a page of the list repeatedly, for its live updates."""

    def __init__(self, visit: Visit, listing: PublicationFilter) -> None:
        self._visit = visit
        self._listing = listing
        self._rows: dict[int, tuple[Version, str]] = {}
        self._counts = ""
        self._counted = 0.0
        # A search takes longer than reading again what it found.
        self._found = _ids(_page(visit, listing)) if listing.wanted.words else None

    def __call__(self) -> PageParts:
        publications = self._visit.store.publications
        tickets = _page(self._visit, self._listing).tickets if self._found is None else publications.these(self._found)
        changed = [each for each in tickets if each.id not in self._rows or self._rows[each.id][0] != version_of(each)]
        rates = _rates(self._visit, changed)
        self._rows = {ticket.id: self._row(ticket, rates) for ticket in tickets}
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            self._counted = time.monotonic()
            self._counts = render(
                "publications/counts.html",
                listing=self._listing,
                counts=_counts(self._visit, self._listing),
                counted_max=COUNTED_MAX,
            )
        parts = {f"ticket-{id}": html for id, (_, html) in self._rows.items()}
        return PageParts(parts | {"counts": self._counts}, {"publications": tuple(parts)})

    def _row(self, ticket: Ticket, rates: Mapping[int, float]) -> tuple[Version, str]:
        version, before = version_of(ticket), self._rows.get(ticket.id)
        if before and before[0] == version:
            return before
        owner_shown = self._visit.user.administrator
        return version, render("publications/row.html", ticket=ticket, rates=rates, owner_shown=owner_shown)


def _listing(visit: Visit) -> PublicationFilter:
    return PublicationFilter.of(visit.request.query_params, visit.owner)


def _page(visit: Visit, listing: PublicationFilter) -> PublicationPage:
    return visit.store.publications.page(listing.wanted, _COUNT, before=listing.before, after=listing.after)


def _rates(visit: Visit, tickets: Sequence[Ticket]) -> dict[int, float]:
    """Return the upload rates of those tickets that are published."""
    ended = [each.id for each in tickets if each.state is State.PUBLISHED]
    return visit.store.publications.rates(ended) if ended else {}


def _ids(page: PublicationPage) -> list[int]:
    return [ticket.id for ticket in page.tickets]


def _counts(visit: Visit, listing: PublicationFilter) -> dict[State, int]:
    return visit.store.publications.counts(listing.wanted.owner)


# One ticket -----------------------------------------------------------------------------------------------------------

_TICKET = "/publications/{id:id}"
_LIVE = ("summary", "actions", "throughput", "timeline", "cloud")
"""The page's changing elements, each with a template of its own."""


@dataclass(frozen=True, slots=True)
class TimelineStep:
    at: float
    words: str
    kind: str
    """The kind of step: `queued`, `claimed`, `phase`, `retrying`, or a state that the ticket has entered."""
    seconds: float | None
    """Seconds until the next step; None for the last."""


@router.get(_TICKET)
def publication(visit: Visiting, id: Id) -> Response:
    ticket = _ticket(visit, id)
    image = image_of(ticket, visit.store.images.get(ticket.image_id))
    return visit.page(
        "publications/publication.html",
        image=image,
        account=_account(ticket),
        notifications=visit.store.notifications.list(id),
        uri=visit.api_path(_uri(ticket)),
        **_shown(visit, ticket),
    )


@router.get(_TICKET + "/events")
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


@router.get(_TICKET + "/cancel")
def ask_to_cancel(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if ticket.final:
        raise Conflict(f"ticket {id} has already ended: {ticket.state}")
    return _confirm(visit, "cancel", ticket)


@router.post(_TICKET + "/cancel")
def cancel(visit: Visiting, id: Id) -> Response:
    _changeable(visit, id)
    cancelled = publishing.cancel(visit.store, id, visit.wake_ticket)
    if cancelled.final:
        return visit.redirect(f"/publications/{id}", "Ticket cancelled.")
    message = "The upload is being stopped, and what was uploaded is being deleted."
    return visit.redirect(f"/publications/{id}", message)


@router.get(_TICKET + "/retry")
def ask_to_retry(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if ticket.state not in (State.FAILED, State.CANCELLED):
        raise Conflict(f"ticket {id} is {ticket.state}; only failed and cancelled tickets can be retried")
    return _confirm(visit, "retry", ticket)


@router.post(_TICKET + "/retry")
def retry(visit: Visiting, id: Id) -> Response:
    _changeable(visit, id)
    publishing.retry(visit.store, id, visit.wake_ticket)
    return visit.redirect(f"/publications/{id}", "Ticket queued again.")


@router.get(_TICKET + "/withdraw")
def ask_to_withdraw(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if ticket.state is not State.PUBLISHED:
        raise Conflict(f"ticket {id} is {ticket.state}; only published images can be withdrawn")
    return _confirm(visit, "withdraw", ticket)


@router.post(_TICKET + "/withdraw")
def withdraw(visit: Visiting, id: Id) -> Response:
    _changeable(visit, id)
    publishing.withdraw(visit.store, id, visit.wake_ticket)
    return visit.redirect(f"/publications/{id}", "The image is being deleted from the cloud.")


@router.get(_TICKET + "/delete")
def ask_to_delete(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    if not ticket.final:
        raise Conflict(f"ticket {id} is {ticket.state}; cancel it first")
    return _confirm(visit, "delete", ticket)


@router.post(_TICKET + "/delete")
def delete(visit: Visiting, id: Id) -> Response:
    ticket = _changeable(visit, id)
    visit.store.tickets.remove(id)
    return visit.redirect("/publications", f"Ticket {id} ({ticket.name}) deleted.")


def _ticket(visit: Visit, id: int) -> Ticket:
    """Return a ticket. Raises `NotFound` if it is missing or belongs to someone else."""
    return require_own(visit.store.tickets.get(id), f"There is no ticket {id}.", visit.owner)


def _account(ticket: Ticket) -> list[tuple[str, Any]]:
    """The elements of the ticket's account, as they were when the ticket was created. Secrets are left out."""
    names = plain_account_fields(ticket.platform)
    if ticket.account_id is not None:
        names.append("name")
    return [(name, ticket.account.get(name)) for name in names]


def _changeable(visit: Visit, id: int) -> Ticket:
    """Return a ticket that the user may change. Raises `NotFound`, `NotAllowed`."""
    ticket = _ticket(visit, id)
    visit.require(_CHANGE)
    return ticket


def _shown(visit: Visit, ticket: Ticket) -> dict[str, Any]:
    history = visit.store.tickets.history(ticket.id)
    return {
        "ticket": ticket,
        "rate": visit.store.publications.rates([ticket.id]).get(ticket.id) if ticket.final else None,
        "steps": _timeline(history),
        "plot": plot(visit.store.tickets.samples(ticket.id)),
        "may_change": visit.may(_CHANGE),
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
        case State.WITHDRAWING, State.WITHDRAWING if not entry.words.startswith("Claimed"):
            return "retrying"
        case _, State.PUBLISHING | State.CANCELLING | State.WITHDRAWING if entry.phase is Phase.PREPARING:
            return "claimed"
        case _, State.PUBLISHING:
            return "phase"
        case _, state:
            return state
