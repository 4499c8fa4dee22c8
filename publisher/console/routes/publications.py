"""The list of tickets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from starlette.responses import Response

from publisher.console.page_request import Visit, Visiting, first_steps, page_router
from publisher.console.publication_filter import COUNT, PublicationFilter
from publisher.console.rendering import PageParts, render
from publisher.core.ticket import State, Ticket
from publisher.store import COUNTED_MAX, PublicationPage, Version, version_of

router = page_router()

_ENTITLEMENT = "image_generate"
_COUNT_SECONDS = 5.0


@router.get("/publications")
def publications(visit: Visiting) -> Response:
    visit.require(_ENTITLEMENT)
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


@router.get("/publications/events")
def events(visit: Visiting) -> Response:
    visit.require(_ENTITLEMENT)
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
    return visit.store.publications.page(listing.wanted, COUNT, before=listing.before, after=listing.after)


def _rates(visit: Visit, tickets: Sequence[Ticket]) -> dict[int, float]:
    """Return the upload rates of those tickets that are published."""
    ended = [each.id for each in tickets if each.state is State.PUBLISHED]
    return visit.store.publications.rates(ended) if ended else {}


def _ids(page: PublicationPage) -> list[int]:
    return [ticket.id for ticket in page.tickets]


def _counts(visit: Visit, listing: PublicationFilter) -> dict[State, int]:
    return visit.store.publications.counts(listing.wanted.owner)
