"""Which publications a page of the list shows, as its address says."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from publisher.console import BASE
from publisher.core.ticket import State
from publisher.store.publications import Wanted

COUNT = 50
_PATH = f"{BASE}/publications"
_NUMBER = re.compile(r"[0-9]{1,18}")
_TEXT_MAX = 255


@dataclass(frozen=True, slots=True)
class PublicationFilter:
    """A page: those wanted, from before or after a ticket's number. What an address has beside that is not minded."""

    wanted: Wanted
    before: int | None = None
    after: int | None = None
    own: bool = False
    """No others than the owner's may be shown, whatever the address says."""

    @classmethod
    def of(cls, parameters: QueryParams, owner: str | None) -> PublicationFilter:
        """`owner` is the one whose publications alone may be shown; None where that is everybody's."""

        def text(name: str) -> str:
            return parameters.get(name, "").replace("\0", "").strip()[:_TEXT_MAX]

        state = text("state")
        wanted = Wanted(
            owner=owner or text("owner") or None,
            state=State(state) if state in list(State) else None,
            platform=text("platform"),
            words=text("q"),
        )
        before, after = text("before"), text("after")
        return cls(
            wanted,
            int(before) if _NUMBER.fullmatch(before) else None,
            int(after) if _NUMBER.fullmatch(after) else None,
            own=owner is not None,
        )

    @property
    def filtered(self) -> bool:
        return self.query != ""

    def in_state(self, state: State | None) -> str:
        """The address of the first page of those in that state."""
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
        """Where the page is kept up to date from."""
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
