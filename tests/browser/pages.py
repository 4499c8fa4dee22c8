"""The pages that are checked for screen readers, keyboards and phones, and the store that they show.

If you add a page to the console, add it here.
"""

from __future__ import annotations

import hashlib

from publisher.core.image import Digests
from publisher.core.ticket import MIB, Phase, State, Ticket
from publisher.store import Store
from publisher.store.database import Actor
from publisher.store.fleet import Member
from publisher.store.leases import Claim
from publisher.store.new_tickets import NewTicket
from tests.records import create_ticket

SIZE = 3 << 30
DIGEST = hashlib.sha512(b"web-frontend").hexdigest()

PAGES = (
    "/publications",
    "/publications?state=failed",
    "/publications?q=nothing+is+called+this",
    "/publications/1",
    "/publications/2",
    "/publications/3",
    "/publications/4",
    "/publications/1/delete",
    "/publications/2/retry",
    "/publications/3/cancel",
    "/publications/new",
    "/publications/new?account=other",
    "/images",
    "/images?q=nothing+is+called+this",
    "/images/1",
    "/images/2",
    "/images/1/delete",
    "/images/new",
    "/accounts",
    "/accounts/new",
    "/accounts/1",
    "/accounts/1/delete",
    "/keys",
    "/keys/1/delete",
    "/fleet",
    "/fleet/drain?worker=builder-2%3A4711",
    "/users",
    "/users/-/new",
    "/users/root",
    "/users/erika",
    "/users/erika/delete",
    "/roles",
    "/roles/delete?name=release+managers",
    "/audit",
    "/audit?user=nobody",
    "/me",
    "/no-such-page",
)
"""Paths below `/console`, for an administrator, with a store that `fill` has filled."""


def fill(store: Store) -> None:
    """Add tickets 1 to 4: published, failed, uploading, and waiting to retry."""
    store.images.add(
        owner="root",
        appliance_id=4,
        name="web-frontend",
        format="qcow2",
        disk_format="qcow2",
        virtual_size=20 << 30,
        digests=Digests(SIZE, DIGEST[:32], DIGEST[-64:], DIGEST),
        location="none/web-frontend.qcow2",
    )
    published(store, ticket(store, "web-frontend 2026.11.1"))
    failed = claim(store, ticket(store, "payments-api"), Phase.AUTHENTICATING)
    store.leases.failed(failed, error="the cloud rejected the login 'demo'", detail="401 Unauthorized")
    again = ticket(store, "edge-router-v7.2.1-with-a-rather-long-name-that-goes-on")
    broken = claim(store, again, Phase.UPLOADING)
    store.leases.retry(broken, delay_seconds=0, error="Glance answered 503 Service Unavailable")
    upload(store, claim(store, again, Phase.UPLOADING), 0.46)
    waiting = claim(store, ticket(store, "gateway"), Phase.UPLOADING)
    store.leases.retry(waiting, delay_seconds=9000, error="the connection to https://cloud.example.com:9292 was lost")
    assert store.publications.counts()[State.PUBLISHING] == 1
    surround(store.acting(Actor("root", "console", "192.0.2.7")))


def surround(store: Store) -> None:
    """Add everything but tickets: an image that is being fetched, an account, a key, users, workers."""
    store.registrations.begin(
        owner="root",
        appliance_id=4,
        name="database-node",
        wanted_format="qcow2",
        source="https://images.example.com/nightly/database-node.qcow2",
    )
    store.accounts.add(
        owner="root",
        name="production",
        platform="openstack",
        fields={"keystoneUrl": "https://cloud.example.com:5000", "login": "demo", "keystoneVersion": "v3"},
        sealed_secrets=b"-",
    )
    store.api_keys.add(owner="root", name="nightly builds", description="", public_key="9f3c" * 10, sealed_secret=b"-")
    may = frozenset({"image_publish", "image_generate", "appliance_create"})
    store.roles.add("release managers", entitlements=may, description="Publish what the builders have made")
    store.users.add("erika", "-", entitlements=frozenset(), roles=frozenset({"release managers"}))
    store.users.add("ci-pipeline", "-", entitlements=may)
    for number in (1, 2, 3):
        store.fleet.join(Member(f"builder-{number}:4711", f"builder-{number}", 4711, f"celery@{number}", "0.1.0", 4))
    store.fleet.ask_to_drain("builder-3:4711")


def ticket(store: Store, name: str, owner: str = "root") -> Ticket:
    return create_ticket(
        store,
        NewTicket(
            owner=owner,
            appliance_id=4,
            image_id=1,
            image_size=SIZE,
            platform="openstack",
            account={"keystoneUrl": "https://cloud.example.com:5000", "login": "demo", "keystoneVersion": "v3"},
            sealed_secrets=b"-",
            target={"displayName": name, "keystoneDomain": "Default", "keystoneProject": "demo", "publicImage": False},
            name=name,
        ),
    )


def claim(store: Store, ticket: Ticket, phase: Phase) -> Claim:
    """Claim a ticket for a worker that does not exist, and bring it to that phase."""
    claim = store.leases.claim(ticket.id, "builder-2:4711", 9000)
    assert claim
    store.leases.phase(claim, Phase.AUTHENTICATING, "Signing in to the cloud")
    if phase is not Phase.AUTHENTICATING:
        store.leases.phase(claim, phase, f"Uploading {ticket.progress.total / MIB:.1f} MiB")
    return claim


def upload(store: Store, claim: Claim, part: float) -> None:
    """Report that this part of the image was sent."""
    store.leases.renew(claim, 9000, sent=int(claim.ticket.progress.total * part))


def published(store: Store, ticket: Ticket) -> None:
    held = claim(store, ticket, Phase.UPLOADING)
    upload(store, held, 1.0)
    store.leases.phase(held, Phase.VERIFYING, "Comparing what the cloud received with what was registered")
    store.leases.published(
        held,
        cloud_id="7367f2a7-987f-45ac-b644-f09e916e4716",
        location="https://cloud.example.com:9292/v2/images/7367f2a7-987f-45ac-b644-f09e916e4716",
    )
