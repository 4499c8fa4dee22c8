"""A worker's process, as Celery's tasks call it, says how a ticket or an image ended. It needs no Celery."""

from __future__ import annotations

import gc
import subprocess
import sys
import uuid

import pytest
from sqlalchemy.exc import OperationalError

import workers.runner
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.files.unfinished import this_boot
from publisher.store import Store
from publisher.store.leases import Leases
from tests.patience import PATIENCE
from tests.unit.workers.runner.scripted_cloud import Script
from workers.runner import WorkerProcess


@pytest.fixture
def process(
    sqlite_store: Store, settings: Settings, vault: Vault, script: Script, monkeypatch: pytest.MonkeyPatch
) -> WorkerProcess:
    monkeypatch.setattr(Store, "open", lambda _: sqlite_store)
    return WorkerProcess(settings)


def test_published_ticket_needs_no_record(process: WorkerProcess, ticket: Ticket) -> None:
    assert process.publish(ticket.id) == (State.PUBLISHED, None)


def test_failed_ticket_comes_with_its_error(process: WorkerProcess, ticket: Ticket, script: Script) -> None:
    def refuse() -> None:
        raise ValueError

    script.on["connect"] = refuse
    state, record = process.publish(ticket.id)
    assert state is State.FAILED
    assert record is not None
    assert record.error


def test_ticket_that_was_cancelled_before_a_claim_comes_as_it_is(
    process: WorkerProcess, sqlite_store: Store, ticket: Ticket
) -> None:
    sqlite_store.tickets.request_cancel(ticket.id)
    state, record = process.publish(ticket.id)
    assert state is None
    assert record is not None
    assert record.state is State.CANCELLED


def test_missing_ticket_and_missing_image_have_no_record(process: WorkerProcess) -> None:
    assert process.publish(4711) == (None, None)
    assert process.register(4711) == (None, None)


def test_store_that_does_not_answer_costs_only_the_record(
    process: WorkerProcess, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT", None, Exception("away"))

    monkeypatch.setattr(Leases, "claim", away)
    monkeypatch.setattr("publisher.store.tickets.Tickets.get", away)
    assert process.publish(ticket.id) == (None, None)


@pytest.mark.long
def test_start_empties_the_scratch_space(
    process: WorkerProcess, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.runner, "serve", lambda *_: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    left = settings.scratch / f"{uuid.uuid4().hex}-100{this_boot()}"
    left.mkdir(parents=True)
    (left / "disk.raw").write_bytes(b"half-converted")
    process.prepare()
    assert list(settings.scratch.iterdir()) == []


@pytest.mark.long
def test_process_can_be_imported_without_celery() -> None:
    program = "import sys, workers.runner; print('celery' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60 * PATIENCE
    )
    assert said.stdout.strip() == "False"
