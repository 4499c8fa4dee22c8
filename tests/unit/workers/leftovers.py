"""Objects that tickets have left in the memory cloud."""

from __future__ import annotations

from memory_cloud.publisher import CLOUD, StoredImage
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from tests.records import add_ticket, current, put_back

HOUR = 3600.0


def put(store: Store, cloud_id: str, ticket_uid: str) -> None:
    CLOUD.images[cloud_id] = StoredImage(ticket_uid, "an image", deployment=store.deployment)


def ticket_that_left(
    store: Store, vault: Vault, cloud_id: str, state: State = State.FAILED, **values: object
) -> Ticket:
    """Add a ticket in `state` with an object in the cloud and in its journal. An ended one ended two hours ago."""
    ticket = add_ticket(store, **{"sealed_secrets": vault.seal({"password": "x"})} | values)
    claim = store.leases.claim(ticket.id, "a", 60)
    assert claim
    store.leases.plan(claim, cloud_id)
    store.leases.mark(claim, cloud_id, "present")
    put(store, cloud_id, ticket.uid)
    match state:
        case State.FAILED:
            store.leases.failed(claim, error="the quota is used up")
        case State.PUBLISHED:
            store.leases.published(claim, cloud_id=cloud_id, location=None)
        case State.QUEUED:
            store.leases.retry(claim, delay_seconds=0, error="later")
        case State.CANCELLING:
            store.tickets.request_cancel(ticket.id)
    if state in (State.FAILED, State.PUBLISHED):
        put_back(store, ticket, finished=2 * HOUR)
    return current(store, ticket)
