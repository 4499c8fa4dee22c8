"""The image's file must match its registration before and during the upload."""

import os
from typing import Any

import pytest

import workers.attempt
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.files.disk_format import DiskFile, examine_opened
from publisher.store import Store
from tests.records import add_ticket, current, remove_image
from tests.unit.workers.runner.scripted_cloud import CONTENT, Script
from workers.runner import Runner


@pytest.mark.parametrize(
    ("happens", "words_"),
    [
        ("deleted", "image 1 has been deleted"),
        ("vanished", "no longer there; generate the image again"),
        ("shrunk", "bytes, but"),
        ("grown", "bytes, but"),
        ("a link", "cannot be opened"),
        ("a directory", "not a regular file"),
        ("the root is gone", "cannot be opened|no longer there"),
    ],
)
def test_a_changed_or_missing_file_is_not_uploaded(
    sqlite_store: Store,
    ticket: Ticket,
    image: Image,
    runner: Runner,
    script: Script,
    settings: Settings,
    happens: str,
    words_: str,
) -> None:
    file = settings.images / image.location
    match happens:
        case "deleted":
            remove_image(sqlite_store, image.id)
        case "shrunk":
            os.truncate(file, 5)
        case "grown":
            file.write_bytes(CONTENT + b"x")
        case _:
            file.unlink()
            if happens == "a link":
                file.symlink_to("/etc/passwd")
            elif happens == "a directory":
                file.mkdir()
            elif happens == "the root is gone":
                settings.images.rmdir()
    assert runner.run(ticket.id) is State.FAILED
    error = current(sqlite_store, ticket).error or ""
    assert any(part in error for part in words_.split("|")), error
    assert script.asked == [], "nothing was asked of the cloud"


def test_a_file_that_shrinks_during_the_upload_fails_the_ticket(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script, settings: Settings
) -> None:
    script.on["chunk"] = lambda: os.truncate(settings.images / image.location, 1 << 20)
    assert runner.run(ticket.id) is State.FAILED
    assert "shorter while it was uploaded" in (current(sqlite_store, ticket).error or "")
    assert script.images == {}


def test_unchanged_file_is_examined_once(
    sqlite_store: Store, image: Image, runner: Runner, vault: Vault, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[str] = []

    def examine(descriptor: int, **given: Any) -> DiskFile:
        examined.append(given["file_name"])
        return examine_opened(descriptor, **given)

    monkeypatch.setattr(workers.attempt, "examine_opened", examine)
    secrets = vault.seal({"password": "x"})
    for number in range(3):
        if number == 2:
            file = settings.images / image.location
            file.write_bytes(file.read_bytes())
        ticket = add_ticket(sqlite_store, image_id=image.id, image_size=image.size, sealed_secrets=secrets)
        assert runner.run(ticket.id) is State.PUBLISHED
    assert len(examined) == 2
