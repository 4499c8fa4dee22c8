"""The runner compares the image that the cloud received with the registered one."""

import dataclasses
from typing import Any

import pytest

from publisher.core.errors import (
    Reason,
)
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from tests.records import current, words
from tests.unit.workers.runner.scripted_cloud import CONTENT, Script, cloud_ids
from workers.runner import Runner


@pytest.mark.parametrize(
    ("received", "error"),
    [
        ({"hashes": {"sha512": "0" * 128}}, "the sha512 that the cloud computed is not the registered one"),
        ({"hashes": {"md5": "0" * 32}}, "the md5 that the cloud computed is not the registered one"),
        ({"size": 5}, f"the cloud received 5 bytes of {len(CONTENT)}"),
        ({"complete": False}, "the cloud does not list the image as complete"),
    ],
)
def test_an_image_that_arrives_damaged_is_removed(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, received: dict[str, Any], error: str
) -> None:
    script.received = lambda image: dataclasses.replace(image, **received)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == f"{error}; the image was removed from the cloud again"
    assert current(sqlite_store, ticket).reason == Reason.INTEGRITY
    assert script.images == {}
    assert cloud_ids(sqlite_store, ticket) == ["gone"]
    assert "finish" not in script.asked


@pytest.mark.parametrize("from_the_kernel", [False, True])
def test_bytes_sent_are_compared_if_the_cloud_reports_no_hash(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, from_the_kernel: bool
) -> None:
    script.received = lambda image: dataclasses.replace(image, hashes={})
    script.from_the_kernel = from_the_kernel
    assert runner.run(ticket.id) is State.PUBLISHED
    told = "The cloud verified nothing: it reports no hash. Its size is right, and what was sent is what was registered"
    assert told in words(sqlite_store, ticket)


@pytest.mark.parametrize("from_the_kernel", [False, True])
def test_wrong_bytes_are_detected_if_the_cloud_reports_no_hash(
    sqlite_store: Store, ticket: Ticket, image: Image, settings: Settings, runner: Runner, script: Script,
    from_the_kernel: bool,
) -> None:  # fmt: skip
    (settings.images / image.location).write_bytes(bytes(len(CONTENT)))
    script.received = lambda image: dataclasses.replace(image, hashes={})
    script.from_the_kernel = from_the_kernel
    assert runner.run(ticket.id) is State.FAILED
    error = current(sqlite_store, ticket).error
    assert error == "the sha256 of what was sent is not the registered one; the image was removed from the cloud again"
    assert script.images == {}


def test_file_that_the_plugin_vouches_for_needs_no_hash_of_the_cloud(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    source: dict[str, Any] = {"source_sha256": image.sha256, "source_size": image.size}
    script.received = lambda image: dataclasses.replace(image, hashes={}, size=7, **source)
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "verified nothing" not in " ".join(words(sqlite_store, ticket))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"source_sha256": "0" * 64}, "the sha256 of what the cloud's image was made of is not the registered one"),
        ({"source_size": 5}, f"the cloud's image was made of 5 bytes, not of {len(CONTENT)}"),
    ],
)
def test_image_of_another_file_than_registered_is_removed(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script, wrong: dict[str, Any], error: str
) -> None:
    source: dict[str, Any] = {"source_sha256": image.sha256, "source_size": image.size} | wrong
    script.received = lambda image: dataclasses.replace(image, hashes={}, **source)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == f"{error}; the image was removed from the cloud again"
    assert script.images == {}


def test_sent_bytes_are_compared_even_if_the_plugin_vouches_for_the_file(
    sqlite_store: Store, ticket: Ticket, image: Image, settings: Settings, runner: Runner, script: Script
) -> None:
    (settings.images / image.location).write_bytes(bytes(len(CONTENT)))
    source: dict[str, Any] = {"source_sha256": image.sha256, "source_size": image.size}
    script.received = lambda image: dataclasses.replace(image, hashes={}, **source)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).reason == Reason.INTEGRITY


def test_no_warning_is_written_if_the_cloud_reports_a_hash(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "verified nothing" not in " ".join(words(sqlite_store, ticket))
