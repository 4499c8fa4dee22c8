"""A runner publishes an image to the memory cloud, and to a scripted cloud."""

import threading
import time
from dataclasses import replace

import pytest

from memory_cloud.publisher import CLOUD
from publisher.core.download_keys import ticket_key
from publisher.core.errors import (
    PermanentCloudError,
    Reason,
    TransientCloudError,
)
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import CloudRef, Phase, State, Ticket, ticket_download_uri
from publisher.core.vault import Vault
from publisher.store import Store
from tests.patience import PATIENCE
from tests.records import add_ticket, current, words
from tests.unit.workers.runner.scripted_cloud import SECRET, Script, cloud_ids, due_now
from workers.runner import Runner


@pytest.mark.parametrize("public_url", ["", "https://publish.example.com/"])
def test_plugin_gets_a_link_if_the_cloud_may_reach_this_service(
    sqlite_store: Store,
    ticket: Ticket,
    image: Image,
    vault: Vault,
    settings: Settings,
    script: Script,
    public_url: str,
) -> None:
    reachable = replace(settings, public_url=public_url)
    assert Runner(sqlite_store, vault, reachable, worker="a").run(ticket.id) is State.PUBLISHED
    path = ticket_download_uri(ticket.owner, ticket.appliance_id, ticket.id, ticket_key(vault, ticket, image))
    assert script.links == [f"https://publish.example.com/api/{path}" if public_url else None]


def test_an_image_is_published_step_by_step(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert (now.state, now.cloud_id, now.location) == (State.PUBLISHED, cloud_id, "RegionOne")
    assert now.progress.percentage == 100
    assert (now.attempt, now.error, now.sealed_secrets) == (1, None, None)
    assert list(sqlite_store.tickets.journal(ticket.id)) == [CloudRef(cloud_id, "present")]
    assert script.secrets == [{"password": SECRET}]
    assert [step for step in script.asked if step != "chunk"] == [
        *("connect", "find", "check", "upload", "created", "finish"),
    ]
    assert script.closed == 1
    assert [entry.phase for entry in sqlite_store.tickets.history(ticket.id)] == [
        *(Phase.WAITING, Phase.PREPARING, Phase.AUTHENTICATING, Phase.UPLOADING),
        *(Phase.VERIFYING, Phase.FINISHING, Phase.FINISHING),
    ]


def test_the_memory_plugin_stores_the_image(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, vault: Vault
) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    stored = CLOUD.images[current(sqlite_store, ticket).cloud_id or ""]
    assert (stored.sha256, stored.size, stored.ticket_uid) == (image.sha256, image.size, ticket.uid)


def test_a_flaky_cloud_gets_one_image(sqlite_store: Store, image: Image, runner: Runner, vault: Vault) -> None:
    ticket = add_ticket(
        sqlite_store, image_id=image.id, account={"login": "flaky"}, sealed_secrets=vault.seal({"password": "x"})
    )
    assert runner.run(ticket.id) is State.QUEUED
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.PUBLISHED
    assert [stored.sha256 for stored in CLOUD.images.values() if stored.ticket_uid == ticket.uid] == [image.sha256]
    assert cloud_ids(sqlite_store, ticket) == ["present"]


@pytest.mark.parametrize("state", ["published", "held", "waiting", "unknown"])
def test_second_delivery_is_ignored(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, state: str
) -> None:
    id = ticket.id
    match state:
        case "published":
            runner.run(id)
        case "held":
            sqlite_store.leases.claim(id, "another", 60)
        case "waiting":
            script.fail("connect", TransientCloudError("later"))
            runner.run(id)
        case "unknown":
            id = 999
    before, asked = sqlite_store.tickets.get(id), list(script.asked)
    assert runner.run(id) is None
    assert sqlite_store.tickets.get(id) == before
    assert script.asked == asked


def test_eight_runners_publish_once(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    outcomes: list[State | None] = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        each = Runner(sqlite_store, vault, settings, worker=f"w{number}")
        start.wait(10 * PATIENCE)
        outcomes.append(each.run(ticket.id))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30 * PATIENCE)
    assert sorted(map(str, outcomes)) == ["None"] * 7 + ["published"]
    assert script.asked.count("upload") == 1


def test_progress_is_stored_during_an_upload(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    seen: list[int] = []

    def look() -> None:
        deadline = time.monotonic() + 5 * PATIENCE
        sent = len([step for step in script.asked if step == "chunk"]) - 1
        while current(sqlite_store, ticket).progress.sent < min(sent, 2) << 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        seen.append(current(sqlite_store, ticket).progress.sent)

    script.on["chunk"] = look
    assert runner.run(ticket.id) is State.PUBLISHED
    assert seen == [0, 1 << 20, 2 << 20]


def test_samples_of_an_upload_hold_its_first_and_last_bytes(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    script.fail("finish", TransientCloudError("away"))
    assert runner.run(ticket.id) is State.QUEUED
    first, last = sqlite_store.tickets.samples(ticket.id)
    assert (first.attempt, first.sent, last.sent) == (1, 0, image.size)
    assert first.at <= last.at
    assert [each.sent for each in sqlite_store.tickets.samples(ticket.id)] == [0, image.size]


def test_samples_of_an_interrupted_upload_end_at_the_last_byte_sent(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    def halfway() -> None:
        if script.asked.count("chunk") == 2:
            raise TransientCloudError("reset", reason=Reason.CONNECTION)

    script.on["chunk"] = halfway
    assert runner.run(ticket.id) is State.QUEUED
    assert current(sqlite_store, ticket).reason == Reason.CONNECTION
    assert [each.sent for each in sqlite_store.tickets.samples(ticket.id)] == [0, 1 << 20]


def test_the_region_is_stored_at_sign_in(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    script.region = "RegionTwo"
    seen: list[str | None] = []
    script.on["check"] = lambda: seen.append(current(sqlite_store, ticket).location)
    script.fail("upload", PermanentCloudError("the quota is used up"))
    assert runner.run(ticket.id) is State.FAILED
    assert seen == ["RegionTwo"]
    assert current(sqlite_store, ticket).location == "RegionTwo", "where it failed"
    assert "Signed in; the image goes to region RegionTwo" in words(sqlite_store, ticket)
