"""A worker counts its attempts, retries, bytes and failures."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from publisher.core.errors import (
    PermanentCloudError,
    Reason,
    TransientCloudError,
)
from publisher.core.image import Image
from publisher.core.ticket import State, Ticket
from publisher.store import Store
from publisher.telemetry.metrics import exposition
from tests.records import put_back
from tests.unit.workers.runner.scripted_cloud import Script, due_now, take_over
from workers.runner import Runner


def counted(name: str, **labels: str) -> float:
    """Return the value that this worker's metrics page shows for a counter."""
    families = text_string_to_metric_families(exposition(CollectorRegistry()).decode())
    return sum(
        each.value
        for family in families
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    )


@pytest.mark.long
def test_bytes_attempts_and_retries_are_counted(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    script.fail("finish", TransientCloudError("away"))
    wanted = {
        ("publisher_uploaded_bytes_total", ""): image.size,
        ("publisher_upload_duration_seconds_count", "complete"): 1,
        ("publisher_retries_total", ""): 1,
        ("publisher_attempts_total", "queued"): 1,
        ("publisher_attempts_total", "published"): 1,
        ("publisher_publication_duration_seconds_count", ""): 1,
        ("publisher_failures_total", ""): 0,
    }

    def told() -> list[float]:
        return [counted(name, **({"outcome": outcome} if outcome else {})) for name, outcome in wanted]

    before = told()
    assert runner.run(ticket.id) is State.QUEUED
    script.on.clear()
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.PUBLISHED
    assert [now - then for now, then in zip(told(), before, strict=True)] == list(wanted.values())


@pytest.mark.long
def test_a_failure_is_counted_by_its_reason(ticket: Ticket, runner: Runner, script: Script) -> None:
    before = counted("publisher_failures_total", reason="quota")
    script.fail("upload", PermanentCloudError("full", reason=Reason.QUOTA))
    assert runner.run(ticket.id) is State.FAILED
    assert counted("publisher_failures_total", reason="quota") == before + 1


@pytest.mark.long
def test_a_lost_lease_is_counted_by_its_holder_and_its_successor(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    before = [counted("publisher_leases_lost_total", seen_by=each) for each in ("holder", "successor")]
    script.on["created"] = lambda: take_over(sqlite_store, ticket)
    assert runner.run(ticket.id) is None
    script.on.clear()
    put_back(sqlite_store, ticket, lease_until=1)
    assert runner.run(ticket.id) is State.PUBLISHED
    after = [counted("publisher_leases_lost_total", seen_by=each) for each in ("holder", "successor")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]
