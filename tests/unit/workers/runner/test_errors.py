"""Errors that end a ticket, and the texts that its owner sees."""

from pathlib import Path

import pytest

from publisher.core.errors import (
    ConfigurationError,
    InvalidRequest,
    PermanentCloudError,
    PublisherError,
    Reason,
    TransientCloudError,
)
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from tests.records import add_ticket, current, words
from tests.unit.workers.runner.scripted_cloud import SECRET, Script, cloud_ids
from workers.runner import Runner

pytestmark = pytest.mark.long


def test_a_refused_login_fails_the_ticket(sqlite_store: Store, image: Image, runner: Runner, vault: Vault) -> None:
    ticket = add_ticket(sqlite_store, image_id=image.id, sealed_secrets=vault.seal({"password": "wrong"}))
    assert runner.run(ticket.id) is State.FAILED
    assert "check login and password" in (current(sqlite_store, ticket).error or "")
    assert current(sqlite_store, ticket).reason == Reason.CREDENTIALS


@pytest.mark.parametrize(
    "error",
    [
        PermanentCloudError("the quota of project p is used up; free some", reason=Reason.QUOTA),
        InvalidRequest("no such project", field="tenantName"),
        ConfigurationError("no plugin"),
    ],
)
@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk", "finish"])
def test_a_permanent_error_fails_the_ticket_and_cleans_up(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: PublisherError, step: str
) -> None:
    script.fail(step, error)
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert (now.state, now.error, now.error_detail) == (State.FAILED, str(error), None)
    assert now.reason == error.reason
    assert script.images == {}
    assert set(cloud_ids(sqlite_store, ticket)) <= {"gone"}
    assert sqlite_store.tickets.due() == []


@pytest.mark.parametrize("step", ["connect", "find", "chunk", "finish"])
def test_an_unknown_exception_fails_the_ticket_and_hides_its_text(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str
) -> None:
    script.fail(step, KeyError("internal: 10.9.8.7"))
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert now.error == "an unexpected error in the publisher; see its log"
    assert now.reason == Reason.INTERNAL
    assert "10.9.8.7" not in f"{now} {words(sqlite_store, ticket)}"
    assert script.images == {}


def test_secrets_sealed_with_another_key_fail_the_ticket(
    sqlite_store: Store, ticket: Ticket, settings: Settings, tmp_path: Path, script: Script
) -> None:
    stranger = Runner(sqlite_store, Vault.from_file(tmp_path / "other" / "key"), settings, worker="b")
    assert stranger.run(ticket.id) is State.FAILED
    assert "same secret key file" in (current(sqlite_store, ticket).error or "")
    assert current(sqlite_store, ticket).reason == Reason.CONFIGURATION


@pytest.mark.parametrize("step", ["connect", "chunk", "delete"])
@pytest.mark.parametrize("error", [PermanentCloudError, TransientCloudError, InvalidRequest])
def test_a_password_that_the_cloud_repeats_is_hidden(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str, error: type[Exception]
) -> None:
    words = f"the gateway got joe:{SECRET}@host"
    script.fail(step, error(words))
    if step == "delete":
        script.fail("created", PermanentCloudError("no room"))
    runner.run(ticket.id)
    now = current(sqlite_store, ticket)
    told = [now.error or "", now.error_detail or "", *(each.words for each in sqlite_store.tickets.history(ticket.id))]
    assert "the gateway got joe:***@host" in " ".join(told)
    assert SECRET not in " ".join(told)
