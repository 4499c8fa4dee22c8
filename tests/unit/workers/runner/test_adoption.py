"""An attempt adopts the image that an earlier one left in the cloud if its content is right."""

import dataclasses
from typing import Any

import pytest

from publisher.core.image import Image
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from tests.records import current, put_back
from tests.unit.workers.runner.scripted_cloud import CONTENT, Script, cloud_ids
from workers.cloud_work import TicketJournal
from workers.clouds.base import CloudImage
from workers.runner import Runner


def leave(store: Store, ticket: Ticket, script: Script, image: CloudImage) -> None:
    """Leave an image in the cloud and in the journal, as a killed worker does."""
    claim = store.leases.claim(ticket.id, "killed", 60)
    assert claim
    store.leases.plan(claim, image.cloud_id)
    store.leases.mark(claim, image.cloud_id, "present")
    script.images[image.cloud_id] = image
    put_back(store, ticket, lease_until=1)


def test_a_complete_image_is_adopted(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    leave(sqlite_store, ticket, script, CloudImage("left", True, image.size, {"sha512": image.sha512}))
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "upload" not in script.asked
    assert script.asked[-1] == "finish"
    now = current(sqlite_store, ticket)
    assert (now.cloud_id, now.attempt) == ("left", 2)
    assert cloud_ids(sqlite_store, ticket) == ["present"]


@pytest.mark.parametrize(
    "wrong", [{"hashes": {"sha512": "0" * 128}}, {"size": 5}, {"hashes": {}}], ids=["hash", "size", "no hash"]
)
def test_a_wrong_image_is_deleted_and_uploaded_again(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script, wrong: dict[str, Any]
) -> None:
    found = CloudImage("left", True, image.size, {"sha512": image.sha512})
    leave(sqlite_store, ticket, script, dataclasses.replace(found, **wrong))
    assert runner.run(ticket.id) is State.PUBLISHED
    now = current(sqlite_store, ticket)
    assert list(script.images) == [now.cloud_id]
    assert now.cloud_id != "left"
    assert cloud_ids(sqlite_store, ticket) == ["gone", "present"]


def test_image_is_adopted_if_the_plugin_vouches_for_its_source(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    """A cloud that converts what it receives reports another size, and no hash."""
    source: dict[str, Any] = {"source_sha256": image.sha256, "source_size": image.size}
    leave(sqlite_store, ticket, script, CloudImage("left", True, 1 << 30, shown_id="ami-7", **source))
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "upload" not in script.asked
    now = current(sqlite_store, ticket)
    assert (now.cloud_id, now.shown_id, now.id_in_cloud) == ("left", "ami-7", "ami-7")


@pytest.mark.parametrize(
    "wrong",
    [
        {"source_sha256": "0" * 64},
        {"source_sha256": ""},
        {"source_size": 5},
        {"source_size": None},
        {"source_sha256": None},
        {"hashes": {"sha512": "0" * 128}, "size": len(CONTENT)},
        {"complete": False},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_image_of_another_source_is_not_adopted(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script, wrong: dict[str, Any]
) -> None:
    found = CloudImage("left", True, 1 << 30, source_sha256=image.sha256, source_size=image.size)
    leave(sqlite_store, ticket, script, dataclasses.replace(found, **wrong))
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "upload" in script.asked
    assert len(script.images) == 1


def test_an_incomplete_image_is_completed(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    leave(sqlite_store, ticket, script, CloudImage("left", complete=False))
    assert runner.run(ticket.id) is State.PUBLISHED
    assert list(script.images) == ["left"]


def test_an_image_that_another_worker_may_still_delete_is_not_used(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    """The other worker was paused, or its connection stalled, after it had decided to delete the image."""
    left = CloudImage("left", True, image.size, {"sha512": image.sha512})
    leave(sqlite_store, ticket, script, left)
    paused = sqlite_store.leases.claim(ticket.id, "paused", 60)
    assert paused
    TicketJournal(sqlite_store, paused).condemn("left")
    put_back(sqlite_store, ticket, lease_until=1)
    assert runner.run(ticket.id) is State.PUBLISHED
    script.images.pop("left", None)  # the late deletion
    assert list(script.images) == [current(sqlite_store, ticket).cloud_id]
    assert cloud_ids(sqlite_store, ticket) == ["gone", "present"]
