"""A publication that consists of several objects: it is killed, cancelled, taken over and swept, and nothing is doubled
or left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import workers.cloud_work
import workers.sweeper
from memory_cloud.parts import PartsPublisher
from memory_cloud.parts_cloud import BLOCK_BYTES, PartsCloud
from publisher.core.errors import LeaseLost, PermanentCloudError, TransientCloudError
from publisher.core.settings import Settings
from publisher.core.ticket import Phase, State, Ticket
from publisher.core.vault import Vault
from publisher.store import AccountGiven, Store
from tests.patience import PATIENCE
from tests.records import add_image, add_ticket, current, put_back, words
from workers.reconciler import discard_abandoned_files
from workers.runner import Runner
from workers.sweeper import Outcome, Sweeper

pytestmark = pytest.mark.long

CONTENT = os.urandom(3 * BLOCK_BYTES) + bytes(2 * BLOCK_BYTES) + os.urandom(BLOCK_BYTES + 77)
UPLOAD_STEPS = ["planned", "converting", "converted", "created", "block", "sent", "complete", "registered", "finish"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        progress_seconds=0.02,
        attempts_max=3,
        clean_up_attempts=0,
        retry_first_seconds=0.0,
        sweep_grace_seconds=0.0,
    )


@pytest.fixture
def parts_store(settings: Settings) -> Iterator[Store]:
    settings.data_dir.mkdir()
    store = Store.open(settings)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PartsCloud:
    for module in (workers.cloud_work, workers.sweeper):
        monkeypatch.setattr(module, "plugin", lambda platform: PartsPublisher)
    return PartsCloud(tmp_path / "cloud")


@pytest.fixture
def vault(settings: Settings, parts_store: Store) -> Vault:
    return Vault.from_file(settings.key_file)


@pytest.fixture
def publish(parts_store: Store, settings: Settings, vault: Vault, cloud: PartsCloud) -> Callable[[], Ticket]:
    image = add_image(parts_store, settings.images, CONTENT)

    def publish() -> Ticket:
        return add_ticket(
            parts_store,
            image_id=image.id,
            image_size=image.size,
            account={"login": str(cloud.directory)},
            sealed_secrets=vault.seal({"password": "good"}),
        )

    return publish


@pytest.fixture
def ticket(publish: Callable[[], Ticket]) -> Ticket:
    return publish()


@pytest.fixture
def runner(parts_store: Store, settings: Settings, vault: Vault) -> Runner:
    return Runner(parts_store, vault, settings, worker="a")


def at(monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], None], *, times: int = 1) -> list[str]:
    """Let `act` run when the plugin reaches a step, for the first `times`. Returns the list of the steps reached."""
    reached: list[str] = []

    def note(self: PartsPublisher, name: str) -> None:
        reached.append(name)
        if name == step and reached.count(name) <= times:
            act()

    monkeypatch.setattr(PartsPublisher, "reached", note)
    return reached


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def check_published(store: Store, settings: Settings, cloud: PartsCloud, *tickets: Ticket) -> None:
    """Check that each ticket has exactly one snapshot and one image, and that nothing else is there."""
    published = [current(store, each) for each in tickets]
    assert [each.state for each in published] == [State.PUBLISHED] * len(tickets), [each.error for each in published]
    handles = {each.cloud_id: each.uid for each in published}
    assert {each.token: each.tags["publisher_ticket"] for each in cloud.snapshots()} == handles
    assert {each.snapshot: each.tags["publisher_ticket"] for each in cloud.images()} == handles
    assert len(cloud.images()) == len(tickets)
    assert {each.snapshot: each.id for each in cloud.images()} == {each.cloud_id: each.shown_id for each in published}
    size = -(-len(CONTENT) // BLOCK_BYTES) * BLOCK_BYTES
    for each in cloud.snapshots():
        assert each.state == "complete"
        assert cloud.content(each.token) == CONTENT.ljust(size, b"\0")
    check_scratch(settings)


def check_empty(settings: Settings, cloud: PartsCloud) -> None:
    assert cloud.snapshots() == []
    assert cloud.images() == []
    check_scratch(settings)


def check_scratch(settings: Settings) -> None:
    assert not settings.scratch.exists() or list(settings.scratch.iterdir()) == []


def journal(store: Store, ticket: Ticket) -> list[str]:
    return [each.state for each in store.tickets.journal(ticket.id)]


def test_one_handle_stands_for_snapshot_and_image(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner
) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    check_published(parts_store, settings, cloud, ticket)
    now = current(parts_store, ticket)
    assert now.id_in_cloud == cloud.images()[0].id != now.cloud_id
    assert now.progress.percentage == 100
    assert journal(parts_store, ticket) == ["present"]
    assert "verified nothing" not in " ".join(words(parts_store, ticket))
    samples = [each.sent for each in parts_store.tickets.samples(ticket.id)]
    assert samples == sorted(samples)
    assert samples[-1] == len(CONTENT), "holes and the filled-up end included"


def killed_at(settings: Settings, ticket: Ticket, step: str) -> None:
    """Run a worker that is killed with SIGKILL when it reaches a step."""
    command = [sys.executable, "-m", "tests.contract.killed_worker", str(ticket.id), step]
    environment = os.environ | settings.environment()
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120 * PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


@pytest.mark.parametrize("step", UPLOAD_STEPS)
def test_killed_worker_is_succeeded(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner, step: str
) -> None:
    killed_at(settings, ticket, step)
    assert current(parts_store, ticket).state is State.PUBLISHING
    images = cloud.images()
    assert (len(images) == 1) is (step in ("registered", "finish"))
    put_back(parts_store, ticket, lease_until=1)
    discard_abandoned_files(parts_store, settings)  # as each worker does at its start
    check_scratch(settings)
    assert runner.run(ticket.id) is State.PUBLISHED
    check_published(parts_store, settings, cloud, ticket)
    if images:
        assert cloud.images() == images, "adopted, and not made again"
    assert journal(parts_store, ticket) == ["present"]


@pytest.mark.parametrize("step", UPLOAD_STEPS)
def test_failed_attempt_is_followed_by_another(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    at(monkeypatch, step, raising(TransientCloudError("the cloud is away")))
    assert runner.run(ticket.id) is State.QUEUED
    check_scratch(settings)
    assert runner.run(ticket.id) is State.PUBLISHED
    check_published(parts_store, settings, cloud, ticket)


@pytest.mark.parametrize("step", UPLOAD_STEPS)
def test_cancel_leaves_nothing(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    at(monkeypatch, step, lambda: void(parts_store.tickets.request_cancel(ticket.id)))
    assert runner.run(ticket.id) is State.CANCELLED
    check_empty(settings, cloud)
    assert set(journal(parts_store, ticket)) <= {"gone"}
    assert current(parts_store, ticket).id_in_cloud is None


def void(_: object) -> None:
    """Return nothing, whatever was done."""


@pytest.mark.parametrize("step", ["converted", "block", "complete", "registered"])
def test_failed_ticket_leaves_nothing(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    at(monkeypatch, step, raising(PermanentCloudError("the quota is used up")))
    assert runner.run(ticket.id) is State.FAILED
    check_empty(settings, cloud)


@pytest.mark.parametrize("step", ["converted", "created", "block", "complete", "registered"])
def test_worker_that_lost_its_lease_changes_nothing(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner, vault: Vault, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = Runner(parts_store, vault, settings, worker="other")

    def take_over() -> None:
        put_back(parts_store, ticket, lease_until=1)
        assert other.run(ticket.id) is State.PUBLISHED
        raise LeaseLost

    at(monkeypatch, step, take_over)
    assert runner.run(ticket.id) is None
    check_published(parts_store, settings, cloud, ticket)


@pytest.fixture
def withdraw(parts_store: Store, vault: Vault, cloud: PartsCloud) -> Callable[[Ticket], Ticket]:
    """Return a function that asks for a withdrawal, with the account's secrets."""

    def withdraw(ticket: Ticket) -> Ticket:
        given = AccountGiven({"login": str(cloud.directory)}, vault.seal({"password": "good"}))
        return parts_store.tickets.request_withdrawal(ticket.id, given)

    return withdraw


@pytest.mark.parametrize("step", ["deleting", "image deleted"])
def test_withdrawal_whose_worker_is_killed_is_finished(
    parts_store: Store, settings: Settings, cloud: PartsCloud, publish: Callable[[], Ticket], runner: Runner, step: str,
    withdraw: Callable[[Ticket], Ticket],
) -> None:  # fmt: skip
    kept, ticket = publish(), publish()
    assert runner.run(kept.id) is runner.run(ticket.id) is State.PUBLISHED
    withdraw(ticket)
    killed_at(settings, ticket, step)
    assert current(parts_store, ticket).state is State.WITHDRAWING
    assert withdraw(ticket).state is State.WITHDRAWING, "the request is repeated"
    put_back(parts_store, ticket, not_before=1, lease_until=1)
    assert runner.run(ticket.id) is State.WITHDRAWN
    check_published(parts_store, settings, cloud, kept)
    assert journal(parts_store, ticket) == ["gone"]
    assert current(parts_store, ticket).sealed_secrets is None


def test_withdrawal_of_a_protected_image_leaves_all_its_parts(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner,
    withdraw: Callable[[Ticket], Ticket],
) -> None:  # fmt: skip
    assert runner.run(ticket.id) is State.PUBLISHED
    (image,) = cloud.images()
    cloud.change_image(image.id, protected=True)
    withdraw(ticket)
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "protected" in str(current(parts_store, ticket).not_withdrawn)
    check_published(parts_store, settings, cloud, ticket)
    cloud.change_image(image.id, protected=False)
    withdraw(ticket)
    assert runner.run(ticket.id) is State.WITHDRAWN
    check_empty(settings, cloud)


@pytest.mark.parametrize("step", ["deleting", "image deleted"])
def test_clean_up_that_was_broken_off_is_finished(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The image is registered. It cannot be cancelled away at the first try."""
    reached: list[str] = []

    def note(self: PartsPublisher, name: str) -> None:
        reached.append(name)
        if name == "registered":
            parts_store.tickets.request_cancel(ticket.id)
        elif name == step and reached.count(name) == 1:
            raise TransientCloudError("the cloud is away")

    monkeypatch.setattr(PartsPublisher, "reached", note)
    assert runner.run(ticket.id) is State.CANCELLING
    put_back(parts_store, ticket, not_before=1, lease_until=1)
    assert runner.run(ticket.id) is State.CANCELLED
    check_empty(settings, cloud)


def test_image_of_another_content_is_replaced(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its tags tell of another file than the one that is registered now."""
    with monkeypatch.context() as patched:
        at(patched, "finish", raising(TransientCloudError("the cloud is away")))
        assert runner.run(ticket.id) is State.QUEUED
    (image,) = cloud.images()
    other = {**image.tags, "publisher_sha256": "0" * 64}
    cloud._write("images", image.id, replace(image, tags=other))
    assert runner.run(ticket.id) is State.PUBLISHED
    check_published(parts_store, settings, cloud, ticket)
    assert journal(parts_store, ticket) == ["gone", "present"]


def test_status_says_that_the_image_is_converted(
    parts_store: Store, cloud: PartsCloud, ticket: Ticket, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Ticket] = {}

    def note(self: PartsPublisher, name: str) -> None:
        seen.setdefault(name, current(parts_store, ticket))

    monkeypatch.setattr(PartsPublisher, "reached", note)
    assert runner.run(ticket.id) is State.PUBLISHED
    converting = seen["converting"]
    assert (converting.phase, converting.message) == (Phase.CONVERTING, "Converting the image for the cloud")
    assert (converting.upload_ends, converting.bytes_per_second, converting.percentage) == (None, None, 0)
    assert seen["converted"].phase is seen["block"].phase is Phase.UPLOADING
    assert seen["registered"].percentage <= 99, "the cloud has not answered yet"
    phases = [each.phase for each in parts_store.tickets.history(ticket.id)]
    assert phases.index(Phase.CONVERTING) < len(phases) - 1 - phases[::-1].index(Phase.UPLOADING)


def test_late_creation_after_a_deletion_is_refused(cloud: PartsCloud, ticket: Ticket, runner: Runner) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    (snapshot,), (image,) = cloud.snapshots(), cloud.images()
    cloud.delete_image(image.id)
    cloud.delete_snapshot(snapshot.token)
    cloud.create_snapshot(snapshot.token, snapshot.tags)
    assert cloud.snapshots() == []
    with pytest.raises(TransientCloudError, match="not complete"):
        cloud.register_image("late", snapshot.token, snapshot.tags)


def test_sweeper_removes_all_parts_of_an_orphan_and_none_of_a_published_image(
    parts_store: Store, settings: Settings, cloud: PartsCloud, publish: Callable[[], Ticket], runner: Runner,
    vault: Vault, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept, lost = publish(), publish()
    assert runner.run(kept.id) is State.PUBLISHED
    with monkeypatch.context() as patched:
        at(patched, "registered", raising(PermanentCloudError("forbidden")))
        patched.setattr(PartsPublisher, "delete", lambda *_: raising(PermanentCloudError("forbidden, too"))())
        assert runner.run(lost.id) is State.FAILED
    assert len(cloud.images()) == len(cloud.snapshots()) == 2
    put_back(parts_store, kept, finished=9)
    put_back(parts_store, lost, finished=9)
    sweeper = Sweeper(parts_store, vault, settings, worker="a")
    assert [each.outcome for each in sweeper.sweep()] == [Outcome.SEEN], "one finding for both parts"
    assert [each.outcome for each in sweeper.sweep()] == [Outcome.REMOVED]
    assert list(sweeper.sweep()) == []
    check_published(parts_store, settings, cloud, kept)


def test_too_little_scratch_space_fails_before_anything_is_sent(
    parts_store: Store, settings: Settings, cloud: PartsCloud, ticket: Ticket, vault: Vault
) -> None:
    small = replace(settings, scratch_bytes_max=BLOCK_BYTES)
    assert Runner(parts_store, vault, small, worker="a").run(ticket.id) is State.FAILED
    failed = current(parts_store, ticket)
    assert failed.error is not None
    assert failed.error.startswith("the image needs 7 MiB of scratch space, but PUBLISHER_SCRATCH_BYTES_MAX allows 1 ")
    check_empty(settings, cloud)
