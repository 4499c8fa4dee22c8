"""The journal of what a ticket has created, or may have created, in a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from publisher.core.ticket import CloudRef
from publisher.store import Store
from publisher.store.leases import Claim


@dataclass(frozen=True, slots=True)
class TicketJournal:
    """The ticket's journal, written under its lease. Deletions can be recorded even after a cancel."""

    store: Store
    claim: Claim

    def entries(self) -> Sequence[CloudRef]:
        return self.store.tickets.journal(self.claim.ticket.id)

    def plan(self, cloud_id: str) -> None:
        self.store.leases.plan(self.claim, cloud_id)

    def present(self, cloud_id: str) -> None:
        self.store.leases.mark(self.claim, cloud_id, "present")

    def condemn(self, cloud_id: str) -> None:
        self.store.leases.mark(self.claim, cloud_id, "condemned")

    def gone(self, cloud_id: str) -> None:
        self.store.leases.mark(self.claim, cloud_id, "gone")
