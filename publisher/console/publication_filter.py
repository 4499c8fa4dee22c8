"""Choose the tickets of a list page from its address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from publisher.console.rendering import BASE
from publisher.core.errors import parse_id
from publisher.core.ticket import State
from publisher.store import TicketFilter

COUNT = 50
_PATH = f"{BASE}/publications"
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
        return _PATH + self.query

    @property
    def events(self) -> str:
        """Address of the events that keep the page up to date."""
        return f"{_PATH}/events{self.query}"

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
