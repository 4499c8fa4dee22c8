"""From a claim to an outcome: against the memory plugin, and a cloud that does what a test tells it to."""

import dataclasses
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import workers.attempt
from memory_cloud.publisher import CLOUD
from publisher.core.errors import (
    ConfigurationError,
    InvalidRequest,
    LeaseLost,
    PermanentCloudError,
    PublisherError,
    Reason,
    TransientCloudError,
)
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import Account, CloudRef, Phase, State, Target, Ticket
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.services.wakeups import Wakeups
from publisher.store import Store
from publisher.telemetry.metrics import exposition
from tests.patience import PATIENCE
from tests.records import add_image, add_ticket, current, put_back, words
from workers.backoff import retry_delay
from workers.clouds.base import CloudImage, CloudPublisher, Tagged, TicketRef, Timeouts
from workers.drain import Drain
from workers.journal import TicketJournal
from workers.runner import Runner
from workers.transfer import Transfer

CONTENT = os.urandom((2 << 20) + 77)
SECRET = "hunter2"


def as_it_is(image: CloudImage) -> CloudImage:
    return image


@dataclass
class Script:
    """What a cloud does, and what has been asked of it."""

    images: dict[str, CloudImage] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    secrets: list[dict[str, str]] = field(default_factory=list)
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    """By the name of a step: what happens as it begins; mostly that an error is raised."""
    received: Callable[[CloudImage], CloudImage] = as_it_is
    """What the cloud makes of what it was sent."""
    region: str | None = None
    from_the_kernel: bool = False
    """What is sent passes through nobody's hands here, and is not hashed."""
    closed: int = 0

    def step(self, name: str) -> None:
        self.asked.append(name)
        if name in self.on:
            self.on[name]()

    def fail(self, step: str, error: BaseException) -> None:
        def happen() -> None:
            raise error

        self.on[step] = happen


def scripted(script: Script) -> type[CloudPublisher]:
    class Scripted(CloudPublisher):
        platform: ClassVar[str] = "scripted"

        @classmethod
        def connect(
            cls,
            account: Account,
            target: Target,
            timeouts: Timeouts,
            policy: OutboundPolicy,
            check: Callable[[], None] = lambda: None,
        ) -> Self:
            script.secrets.append(account.secrets)
            script.step("connect")
            cloud = cls()
            cloud.region = script.region
            return cloud

        def check(self, image: Image) -> None:
            script.step("check")

        def find(self, ticket: TicketRef) -> CloudImage | None:
            script.step("find")
            return next(iter(script.images.values()), None)

        def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
            script.step("upload")
            cloud_id = next(iter(script.images), None) or str(uuid.uuid4())
            if cloud_id not in script.images:
                ticket.journal.plan(cloud_id)
                script.images[cloud_id] = CloudImage(cloud_id, complete=False)
                ticket.journal.present(cloud_id)
            script.step("created")
            received = b""
            for chunk in transfer.chunks():
                received += chunk
                script.step("chunk")
            if script.from_the_kernel:
                transfer.sha256 = None
            hashes = {"sha512": hashlib.sha512(received).hexdigest()}
            script.images[cloud_id] = script.received(CloudImage(cloud_id, True, len(received), hashes))
            return script.images[cloud_id]

        def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
            script.step("finish")
            return dataclasses.replace(uploaded, location="RegionOne")

        def delete(self, cloud_id: str) -> None:
            script.step("delete")
            script.images.pop(cloud_id, None)

        def tagged(self, deployment: str) -> Sequence[Tagged]:
            return []

        def close(self) -> None:
            script.closed += 1

    return Scripted


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    cloud = scripted(script)
    monkeypatch.setattr(workers.attempt, "plugin", lambda platform: cloud)
    return script


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path,
        progress_seconds=0.02,
        lease_seconds=30.0,
        lease_renew_seconds=5.0,
        attempts_max=3,
        clean_up_attempts=2,
        retry_first_seconds=8.0,
        retry_longest_seconds=60.0,
    )


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault.from_file(settings.key_file)


@pytest.fixture
def image(sqlite_store: Store, settings: Settings) -> Image:
    return add_image(sqlite_store, settings.images, CONTENT)


@pytest.fixture
def ticket(sqlite_store: Store, vault: Vault, image: Image) -> Ticket:
    return add_ticket(
        sqlite_store, image_id=image.id, image_size=image.size, sealed_secrets=vault.seal({"password": SECRET})
    )


@pytest.fixture
def drain() -> Drain:
    return Drain(60)


class Waker:
    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, ticket_id: int) -> None:
        self.sent.append(ticket_id)

    def send_image(self, image_id: int) -> None:
        raise NotImplementedError


@pytest.fixture
def waker() -> Waker:
    return Waker()


@pytest.fixture
def runner(sqlite_store: Store, vault: Vault, settings: Settings, drain: Drain, waker: Waker) -> Runner:
    return Runner(sqlite_store, vault, settings, worker="a", drain=drain, wakeups=Wakeups(sqlite_store, waker))


@pytest.fixture(autouse=True)
def _no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text


def due_now(store: Store, ticket: Ticket) -> None:
    put_back(store, ticket, not_before=0.01, wake_at=0.01)


def cloud_ids(store: Store, ticket: Ticket) -> list[str]:
    return [entry.state for entry in store.tickets.journal(ticket.id)]


def cancel(store: Store, ticket: Ticket) -> None:
    """What a caller does, while the work goes on; once, however often it is called."""
    if current(store, ticket).state is State.PUBLISHING:
        store.tickets.request_cancel(ticket.id)


def take_over(store: Store, ticket: Ticket) -> None:
    """What happens when this worker is taken for dead: another one claims the ticket."""
    for _ in range(100):
        put_back(store, ticket, lease_until=1)
        if store.leases.claim(ticket.id, "another", 60):
            return
        # The first worker has renewed its lease just in between.
    pytest.fail("it cannot be taken over")


# Published ------------------------------------------------------


def test_published(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert (now.state, now.cloud_id, now.location) == (State.PUBLISHED, cloud_id, "RegionOne")
    assert now.progress.percentage == 100
    assert (now.attempt, now.error, now.sealed_secrets) == (1, None, None)
    assert list(sqlite_store.tickets.journal(ticket.id)) == [CloudRef(cloud_id, "present")]
    assert script.secrets == [{"password": SECRET}]
    assert [step for step in script.asked if step != "chunk"] == [
        *("connect", "check", "find", "upload", "created", "finish"),
    ]
    assert script.closed == 1
    assert [entry.phase for entry in sqlite_store.tickets.history(ticket.id)] == [
        *(Phase.WAITING, Phase.PREPARING, Phase.AUTHENTICATING, Phase.UPLOADING),
        *(Phase.VERIFYING, Phase.FINISHING, Phase.FINISHING),
    ]


def test_published_by_the_memory_plugin(
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


def test_a_refused_login_fails(sqlite_store: Store, image: Image, runner: Runner, vault: Vault) -> None:
    ticket = add_ticket(sqlite_store, image_id=image.id, sealed_secrets=vault.seal({"password": "wrong"}))
    assert runner.run(ticket.id) is State.FAILED
    assert "check login and password" in (current(sqlite_store, ticket).error or "")
    assert current(sqlite_store, ticket).reason == Reason.CREDENTIALS


@pytest.mark.parametrize("state", ["published", "held", "waiting", "unknown"])
def test_a_message_too_many_does_nothing(
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


def test_progress_is_seen_while_it_uploads(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
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


def test_samples_of_an_upload_that_breaks_off_tell_how_far_it_came(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    def halfway() -> None:
        if script.asked.count("chunk") == 2:
            raise TransientCloudError("reset", reason=Reason.CONNECTION)

    script.on["chunk"] = halfway
    assert runner.run(ticket.id) is State.QUEUED
    assert current(sqlite_store, ticket).reason == Reason.CONNECTION
    assert [each.sent for each in sqlite_store.tickets.samples(ticket.id)] == [0, 1 << 20]


# What is counted ------------------------------------------------


def counted(name: str, **labels: str) -> float:
    """What is told of a counter of this worker."""
    families = text_string_to_metric_families(exposition(CollectorRegistry()).decode())
    return sum(
        each.value
        for family in families
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    )


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


def test_a_failure_is_counted_by_its_reason(ticket: Ticket, runner: Runner, script: Script) -> None:
    before = counted("publisher_failures_total", reason="quota")
    script.fail("upload", PermanentCloudError("full", reason=Reason.QUOTA))
    assert runner.run(ticket.id) is State.FAILED
    assert counted("publisher_failures_total", reason="quota") == before + 1


def test_a_lease_that_is_lost_is_counted_by_who_loses_it_and_who_takes_over(
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


# Errors ---------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        PermanentCloudError("the quota of project p is used up; free some", reason=Reason.QUOTA),
        InvalidRequest("no such project", field="tenantName"),
        ConfigurationError("no plugin"),
    ],
)
@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk", "finish"])
def test_a_permanent_error_fails_and_cleans_up(
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


def test_a_transient_error_waits_then_publishes(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("chunk", TransientCloudError("the connection to glance:9292 failed: reset"))
    assert runner.run(ticket.id) is State.QUEUED
    now = current(sqlite_store, ticket)
    assert now.error == "the connection to glance:9292 failed: reset"
    assert 6 <= now.not_before - now.modified <= 10.1
    assert now.reason == Reason.UNAVAILABLE
    assert len(script.images) == 1, "what was made is adopted by the next attempt"
    assert runner.run(ticket.id) is None
    due_now(sqlite_store, ticket)
    script.on.clear()
    assert runner.run(ticket.id) is State.PUBLISHED
    assert (current(sqlite_store, ticket).attempt, current(sqlite_store, ticket).reason) == (2, None)
    assert len(script.images) == 1
    assert cloud_ids(sqlite_store, ticket) == ["present"]


def test_the_cloud_says_when_to_come_back(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    script.fail("connect", TransientCloudError("slow down", retry_after_seconds=500))
    runner.run(ticket.id)
    now = current(sqlite_store, ticket)
    assert 499 < now.not_before - now.modified < 501


def test_attempts_come_to_an_end(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    script.fail("chunk", TransientCloudError("away"))
    for _ in range(2):
        assert runner.run(ticket.id) is State.QUEUED
        due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == "away (given up after 3 attempts)"
    assert script.images == {}


def test_a_ticket_that_kills_its_workers_comes_to_an_end(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    for _ in range(3):
        assert sqlite_store.leases.claim(ticket.id, "doomed", 60)
        put_back(sqlite_store, ticket, lease_until=1)
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == "given up: 3 workers broke off while at it"
    assert current(sqlite_store, ticket).reason == Reason.WORKER_LOST


@pytest.mark.parametrize("step", ["connect", "find", "chunk", "finish"])
def test_an_unknown_exception_fails_and_its_text_stays_here(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str
) -> None:
    script.fail(step, KeyError("internal: 10.9.8.7"))
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert now.error == "an unexpected error in the publisher; its log tells more"
    assert now.reason == Reason.INTERNAL
    assert "10.9.8.7" not in f"{now} {words(sqlite_store, ticket)}"
    assert script.images == {}


@pytest.mark.parametrize("attempts", [0, 2], ids=["at first", "at the last attempt"])
def test_a_failure_whose_clean_up_fails_for_now(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, attempts: int
) -> None:
    for _ in range(attempts):
        sqlite_store.leases.claim(ticket.id, "doomed", 60)
        put_back(sqlite_store, ticket, lease_until=1)
    script.fail("finish", PermanentCloudError("forbidden", reason=Reason.FORBIDDEN))
    script.fail("delete", TransientCloudError("Glance is away"))
    assert runner.run(ticket.id) is State.QUEUED
    assert current(sqlite_store, ticket).error == "forbidden; cleaning up: Glance is away"
    assert len(script.images) == 1
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.QUEUED, "the cloud is waited for"
    assert script.asked.count("upload") == 1, "what has failed is not tried again"
    script.on.clear()
    due_now(sqlite_store, ticket)
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert (now.error, now.error_detail, script.images) == ("forbidden", None, {})
    assert now.reason == Reason.FORBIDDEN, "not why it could not be cleaned up"


def test_a_clean_up_is_given_up_in_the_end(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    for _ in range(2):
        sqlite_store.leases.claim(ticket.id, "doomed", 60)
        put_back(sqlite_store, ticket, lease_until=1)
    script.fail("finish", PermanentCloudError("forbidden"))
    script.fail("delete", TransientCloudError("Glance is away"))
    states = []
    for _ in range(3):
        states.append(runner.run(ticket.id))
        due_now(sqlite_store, ticket)
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "forbidden"
    assert now.error_detail == f"{cloud_id} may be left in the cloud, cleaning up failed: Glance is away"


@pytest.mark.parametrize("error", [PermanentCloudError("protected"), KeyError("internal: 10.9.8.7")])
def test_a_failure_whose_clean_up_fails_for_good(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: Exception
) -> None:
    script.fail("finish", PermanentCloudError("forbidden"))
    script.fail("delete", error)
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "forbidden"
    assert f"{cloud_id} may be left in the cloud" in (now.error_detail or "")
    assert "10.9.8.7" not in f"{now} {words(sqlite_store, ticket)}"


def test_secrets_that_no_key_opens(
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


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 10, 1000, 5000])
def test_delays_double_up_to_a_limit(settings: Settings, attempt: int) -> None:
    delays = [retry_delay(settings, attempt) for _ in range(200)]
    middle = min(8.0 * 2 ** min(attempt - 1, 20), 60.0)
    assert min(delays) >= 0.75 * middle
    assert max(delays) <= 1.25 * middle
    assert max(delays) - min(delays) > 0.2 * middle
    assert retry_delay(settings, attempt, 1e4) == 1e4
    assert retry_delay(settings, attempt, float("inf")) == 86400


# The deadline ---------------------------------------------------


@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk"])
def test_a_deadline_that_passes_ends_the_work_with_a_clean_cloud(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, step: str
) -> None:
    settings = dataclasses.replace(settings, deadline_seconds=0.5)
    script.on[step] = lambda: time.sleep(0.6)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    assert now.error == "given up: not published within 0.5 s of its acceptance"
    assert now.reason == Reason.DEADLINE
    assert script.images == {}
    assert "finish" not in script.asked


def test_a_ticket_that_waited_past_its_deadline_fails_without_a_call(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("connect", TransientCloudError("Keystone is away"))
    assert runner.run(ticket.id) is State.QUEUED
    put_back(sqlite_store, ticket, accepted=86401, not_before=0.01)
    script.asked.clear()
    assert runner.run(ticket.id) is State.FAILED
    assert current(sqlite_store, ticket).error == (
        "given up: not published within 24 h of its acceptance; the last error: Keystone is away"
    )
    assert script.asked == []
    assert sqlite_store.tickets.retry(ticket.id).reason is None
    script.on.clear()
    assert runner.run(ticket.id) is State.PUBLISHED, "its owner gave it another day"


def test_no_wait_goes_beyond_the_deadline(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> None:
    script.fail("chunk", TransientCloudError("slow down", retry_after_seconds=5000))
    put_back(sqlite_store, ticket, accepted=86400 - 30)
    assert runner.run(ticket.id) is State.QUEUED
    now = current(sqlite_store, ticket)
    assert 28 < now.not_before - now.modified < 31
    put_back(sqlite_store, ticket, accepted=86401, not_before=0.01)
    script.fail("delete", TransientCloudError("Glance is away"))
    for _ in range(4):  # it is the clean-up that is tried again, and nothing else
        runner.run(ticket.id)
        due_now(sqlite_store, ticket)
    assert script.asked.count("upload") == 1
    now = current(sqlite_store, ticket)
    assert now.state is State.FAILED
    assert (now.error or "").count("given up") == 1
    assert "may be left in the cloud" in (now.error_detail or "")


@pytest.mark.parametrize("seconds", [0.0, 86400.0])
def test_without_a_deadline_nothing_is_too_late(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, seconds: float
) -> None:
    put_back(sqlite_store, ticket, accepted=90000)
    settings = dataclasses.replace(settings, deadline_seconds=seconds)
    state = Runner(sqlite_store, vault, settings, worker="a").run(ticket.id)
    assert state is (State.FAILED if seconds else State.PUBLISHED)


# The image file -------------------------------------------------


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
def test_a_file_that_is_not_what_was_registered(
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
            sqlite_store.images.remove(image.id)
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


def test_a_file_that_shrinks_meanwhile(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script, settings: Settings
) -> None:
    script.on["chunk"] = lambda: os.truncate(settings.images / image.location, 1 << 20)
    assert runner.run(ticket.id) is State.FAILED
    assert "shorter while it was uploaded" in (current(sqlite_store, ticket).error or "")
    assert script.images == {}


# What the cloud received, and what is found ---------------------


@pytest.mark.parametrize(
    ("received", "error"),
    [
        ({"hashes": {"sha512": "0" * 128}}, "the sha512 that the cloud computed is not the registered one"),
        ({"hashes": {"md5": "0" * 32}}, "the md5 that the cloud computed is not the registered one"),
        ({"size": 5}, f"the cloud received 5 bytes of {len(CONTENT)}"),
        ({"complete": False}, "the cloud does not list the image as complete"),
    ],
)
def test_what_arrived_wrong_is_removed(
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
def test_a_cloud_that_tells_no_hash_is_believed_by_what_was_sent(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, from_the_kernel: bool
) -> None:
    script.received = lambda image: dataclasses.replace(image, hashes={})
    script.from_the_kernel = from_the_kernel
    assert runner.run(ticket.id) is State.PUBLISHED
    told = "The cloud verified nothing: it reports no hash. Its size is right, and what was sent is what was registered"
    assert told in words(sqlite_store, ticket)


@pytest.mark.parametrize("from_the_kernel", [False, True])
def test_a_cloud_that_tells_no_hash_and_was_sent_something_else(
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


def test_a_cloud_that_tells_a_hash_is_not_said_to_have_verified_nothing(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    assert runner.run(ticket.id) is State.PUBLISHED
    assert "verified nothing" not in " ".join(words(sqlite_store, ticket))


def test_the_region_is_known_from_the_sign_in_on(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.region = "RegionTwo"
    seen: list[str | None] = []
    script.on["check"] = lambda: seen.append(current(sqlite_store, ticket).location)
    script.fail("upload", PermanentCloudError("the quota is used up"))
    assert runner.run(ticket.id) is State.FAILED
    assert seen == ["RegionTwo"]
    assert current(sqlite_store, ticket).location == "RegionTwo", "where it failed"
    assert "Signed in; the image goes to region RegionTwo" in words(sqlite_store, ticket)


def leave(store: Store, ticket: Ticket, script: Script, image: CloudImage) -> None:
    """What a worker that was killed has left: in the cloud and in the journal."""
    claim = store.leases.claim(ticket.id, "killed", 60)
    assert claim
    store.leases.plan(claim, image.cloud_id)
    store.leases.mark(claim, image.cloud_id, "present")
    script.images[image.cloud_id] = image
    put_back(store, ticket, lease_until=1)


def test_what_is_found_complete_is_adopted(
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
def test_what_is_found_wrong_is_removed_and_made_anew(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script, wrong: dict[str, Any]
) -> None:
    found = CloudImage("left", True, image.size, {"sha512": image.sha512})
    leave(sqlite_store, ticket, script, dataclasses.replace(found, **wrong))
    assert runner.run(ticket.id) is State.PUBLISHED
    now = current(sqlite_store, ticket)
    assert list(script.images) == [now.cloud_id]
    assert now.cloud_id != "left"
    assert cloud_ids(sqlite_store, ticket) == ["gone", "present"]


def test_what_is_found_incomplete_is_filled(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    leave(sqlite_store, ticket, script, CloudImage("left", complete=False))
    assert runner.run(ticket.id) is State.PUBLISHED
    assert list(script.images) == ["left"]


def test_what_another_worker_may_still_delete_is_not_used(
    sqlite_store: Store, ticket: Ticket, image: Image, runner: Runner, script: Script
) -> None:
    """It was paused, or its connection stalled, between the decision and the deletion."""
    left = CloudImage("left", True, image.size, {"sha512": image.sha512})
    leave(sqlite_store, ticket, script, left)
    paused = sqlite_store.leases.claim(ticket.id, "paused", 60)
    assert paused
    TicketJournal(sqlite_store, paused).condemn("left")
    put_back(sqlite_store, ticket, lease_until=1)
    assert runner.run(ticket.id) is State.PUBLISHED
    script.images.pop("left", None)  # now it comes
    assert list(script.images) == [current(sqlite_store, ticket).cloud_id]
    assert cloud_ids(sqlite_store, ticket) == ["gone", "present"]


def test_what_is_deleted_is_condemned_first(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("chunk", PermanentCloudError("the quota is used up"))
    seen: list[list[str]] = []
    script.on["delete"] = lambda: seen.append(cloud_ids(sqlite_store, ticket))
    assert runner.run(ticket.id) is State.FAILED
    assert seen == [["condemned"]]


# Cancelling -----------------------------------------------------


@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk", "finish"])
def test_a_cancel_at_any_step_ends_with_a_clean_cloud(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str
) -> None:
    states_at_delete: list[State] = []

    script.on[step] = lambda: cancel(sqlite_store, ticket)
    script.on["delete"] = lambda: states_at_delete.append(current(sqlite_store, ticket).state)
    assert runner.run(ticket.id) is State.CANCELLED
    now = current(sqlite_store, ticket)
    assert (now.state, now.cloud_id) == (State.CANCELLED, None)
    assert script.images == {}
    assert set(states_at_delete) <= {State.CANCELLING}
    assert set(cloud_ids(sqlite_store, ticket)) <= {"gone"}
    if step in ("created", "chunk", "finish"):
        assert states_at_delete == [State.CANCELLING]
    assert script.closed <= 1


@pytest.mark.long
def test_a_cancel_during_the_upload_is_noticed_at_once(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    """Without a write of ours that would tell: the lease's keeper looks."""
    cancelled_at: list[float] = []

    def cancel_then_trickle() -> None:
        if not cancelled_at:
            sqlite_store.tickets.request_cancel(ticket.id)
            cancelled_at.append(time.monotonic())
            time.sleep(2)

    script.on["chunk"] = cancel_then_trickle
    assert runner.run(ticket.id) is State.CANCELLED
    assert time.monotonic() - cancelled_at[0] < 4 * PATIENCE
    assert script.asked.count("chunk") == 1


@pytest.mark.parametrize("error", [TransientCloudError("Glance is away"), KeyError("internal: 10.9.8.7")])
def test_a_cancel_whose_clean_up_fails_stays_until_it_is_done(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: Exception
) -> None:
    script.on["chunk"] = lambda: cancel(sqlite_store, ticket)
    script.fail("delete", error)
    assert runner.run(ticket.id) is State.CANCELLING
    assert current(sqlite_store, ticket).state is State.CANCELLING
    assert cloud_ids(sqlite_store, ticket) == ["condemned"]
    assert runner.run(ticket.id) is None, "only after a while"
    put_back(sqlite_store, ticket, lease_until=0.01, wake_at=0.01)
    assert sqlite_store.tickets.due() == [ticket.id]
    script.on.clear()
    assert runner.run(ticket.id) is State.CANCELLED
    assert script.images == {}
    assert cloud_ids(sqlite_store, ticket) == ["gone"]
    assert "10.9.8.7" not in f"{current(sqlite_store, ticket)} {words(sqlite_store, ticket)}"


@pytest.mark.parametrize("error", [TransientCloudError("Glance is away"), KeyError("internal: 10.9.8.7")])
def test_a_cancel_whose_clean_up_goes_on_failing_comes_to_an_end(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, error: Exception
) -> None:
    script.on["chunk"] = lambda: cancel(sqlite_store, ticket)
    script.fail("delete", error)
    states = []
    for _ in range(5):
        states.append(runner.run(ticket.id))
        put_back(sqlite_store, ticket, lease_until=0.01, wake_at=0.01)
    assert states == [State.CANCELLING] * 4 + [State.FAILED]
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "cancelled, but not cleaned up"
    assert f"{cloud_id} may be left in the cloud" in (now.error_detail or "")
    assert "10.9.8.7" not in f"{now} {words(sqlite_store, ticket)}"


def test_a_cancel_that_can_never_clean_up_says_what_is_left(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.on["chunk"] = lambda: cancel(sqlite_store, ticket)
    script.fail("delete", PermanentCloudError("the image is protected"))
    assert runner.run(ticket.id) is State.FAILED
    now = current(sqlite_store, ticket)
    (cloud_id,) = script.images
    assert now.error == "cancelled, but not cleaned up"
    assert cloud_id in (now.error_detail or "")
    assert "the image is protected" in (now.error_detail or "")


def test_a_cancel_during_a_failure_still_cancels(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    def cancel_and_fail() -> None:
        sqlite_store.tickets.request_cancel(ticket.id)
        raise PermanentCloudError("quota")

    script.on["created"] = cancel_and_fail
    assert runner.run(ticket.id) is State.CANCELLED
    assert script.images == {}


# Leases and shutting down ---------------------------------------


@pytest.mark.parametrize("step", ["connect", "check", "find", "upload", "created", "chunk", "finish"])
def test_a_lost_lease_stops_the_work_and_writes_nothing(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, step: str
) -> None:
    after: list[Ticket] = []

    def lose() -> None:
        if not after:
            take_over(sqlite_store, ticket)
            after.append(current(sqlite_store, ticket))

    script.on[step] = lose
    assert runner.run(ticket.id) is None
    assert current(sqlite_store, ticket) == after[0]
    assert current(sqlite_store, ticket).worker == "another"
    assert "delete" not in script.asked, "what is there belongs to the other worker now"
    assert words(sqlite_store, ticket)[-1].endswith("claimed by another")


@pytest.mark.parametrize("why", ["failed", "cancelled"])
def test_a_lease_lost_while_cleaning_up(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script, why: str
) -> None:
    def end() -> None:
        if why == "failed":
            raise PermanentCloudError("quota")
        sqlite_store.tickets.request_cancel(ticket.id)

    script.on["chunk"] = end
    script.on["delete"] = lambda: take_over(sqlite_store, ticket)
    assert runner.run(ticket.id) is None
    now = current(sqlite_store, ticket)
    assert (now.worker, now.state) == ("another", State.PUBLISHING if why == "failed" else State.CANCELLING)
    assert now.error is None
    assert cloud_ids(sqlite_store, ticket) == ["condemned"]


def test_a_worker_that_was_paused_knows_so_by_its_own_clock(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    """Its keeper was paused with it, and nobody has claimed the ticket yet: it must stop all the same."""
    settings = dataclasses.replace(settings, lease_seconds=0.2, lease_renew_seconds=60, progress_seconds=60)
    script.on["created"] = lambda: time.sleep(0.3)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is None
    assert "chunk" not in script.asked


@pytest.mark.long
def test_who_was_paused_goes_on_at_once_where_nobody_else_is(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    """With its keeper, as SIGSTOP pauses a process."""
    settings = dataclasses.replace(settings, lease_seconds=5, lease_renew_seconds=60, progress_seconds=60)
    paused: list[float] = []

    def pause() -> None:
        if not paused:
            paused.append(time.monotonic())
            time.sleep(5.5)

    script.on["created"] = pause
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id, go_on=True) is State.PUBLISHED
    assert time.monotonic() - paused[0] < 5.5 + 5 * PATIENCE
    assert current(sqlite_store, ticket).attempt == 2
    assert len(script.images) == 1


@pytest.mark.long
def test_a_lease_that_was_lost_is_free_for_anybody(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, drain: Drain
) -> None:
    """A worker that drains takes nothing up again, and keeps nobody else from it either."""
    settings = dataclasses.replace(settings, lease_seconds=5, lease_renew_seconds=60, progress_seconds=60)

    def pause() -> None:
        time.sleep(5.5)
        drain.ask()

    script.on["created"] = pause
    assert Runner(sqlite_store, vault, settings, worker="a", drain=drain).run(ticket.id, go_on=True) is None
    assert sqlite_store.tickets.due() == [ticket.id]
    assert sqlite_store.leases.claim(ticket.id, "another", 60)


STEPS = ["connect", "check", "find", "upload", "chunk", "finish"]


@pytest.mark.parametrize("step", STEPS)
def test_a_call_that_sleeps_holds_neither_the_ticket_nor_the_thread(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, step: str
) -> None:
    """As a library does that waits for a time of day which was set back."""
    wake_up, woken = threading.Event(), threading.Event()
    settings = dataclasses.replace(
        settings, connect_timeout_seconds=0.1, call_timeout_seconds=0.1, verify_seconds=0.1, retry_first_seconds=0.001
    )

    def sleep() -> None:
        if script.asked.count(step) == 1:
            assert wake_up.wait(120)
            woken.set()

    script.on[step] = sleep
    try:
        runner = Runner(sqlite_store, vault, settings, worker="a")
        assert runner.run(ticket.id) is State.QUEUED
        called = "upload" if step == "chunk" else step
        assert f"the plugin's call '{called}' was not heard of for" in str(current(sqlite_store, ticket).error)
    finally:
        wake_up.set()
    assert woken.wait(30)
    # A slow machine is not to be taken for a plugin that sleeps.
    patient = dataclasses.replace(settings, connect_timeout_seconds=60, call_timeout_seconds=60)
    put_back(sqlite_store, ticket, not_before=1)
    assert Runner(sqlite_store, vault, patient, worker="a").run(ticket.id) is State.PUBLISHED
    assert script.secrets == [{"password": SECRET}] * 2, "signed in anew: the call before may still use its connections"


def test_a_call_that_goes_round_for_ever_comes_to_an_end(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks whether to go on, again and again, and gets nowhere."""
    ended = threading.Event()

    class Restless(scripted(Script())):  # type: ignore[misc]  # made by the call
        def __init__(self, check: Callable[[], None]) -> None:
            self._look = check

        @classmethod
        def connect(cls, account: Any, target: Any, timeouts: Any, policy: Any, check: Any = None) -> Self:
            return cls(check)

        def find(self, ticket: TicketRef) -> CloudImage | None:
            try:
                while True:
                    self._look()
                    time.sleep(0.01)
            finally:
                ended.set()

    monkeypatch.setattr(workers.attempt, "plugin", lambda platform: Restless)
    settings = dataclasses.replace(settings, call_timeout_seconds=0.02, verify_seconds=0.5)
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is State.QUEUED
    assert "'find' did not end within" in str(current(sqlite_store, ticket).error)
    assert ended.wait(30), "it stops, once its attempt has ended"


@pytest.mark.long
def test_a_long_upload_keeps_its_lease(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script
) -> None:
    settings = dataclasses.replace(settings, lease_seconds=2.0, lease_renew_seconds=0.1, progress_seconds=0.05)
    others: list[object] = []

    def dawdle() -> None:
        time.sleep(1.0)
        others.append(sqlite_store.leases.claim(ticket.id, "another", 60))

    script.on["chunk"] = dawdle
    assert Runner(sqlite_store, vault, settings, worker="a").run(ticket.id) is State.PUBLISHED
    assert others == [None] * 3


def test_a_drain_lets_what_goes_on_end_and_takes_nothing_new(
    ticket: Ticket, runner: Runner, script: Script, drain: Drain, waker: Waker
) -> None:
    script.on["connect"] = drain.ask
    assert runner.run(ticket.id) is State.PUBLISHED
    assert waker.sent == []
    assert runner.run(ticket.id) is None


@pytest.mark.parametrize("how", ["at once", "asked twice", "time is up"])
@pytest.mark.parametrize("step", ["connect", "find", "chunk"])
def test_a_drain_that_is_over_hands_the_ticket_back(
    sqlite_store: Store, ticket: Ticket, vault: Vault, settings: Settings, script: Script, waker: Waker, step: str,
    how: str,
) -> None:  # fmt: skip
    drain = Drain(0 if how == "time is up" else 60)
    runner = Runner(sqlite_store, vault, settings, worker="a", drain=drain, wakeups=Wakeups(sqlite_store, waker))

    def ask() -> None:
        drain.ask(now=how == "at once")
        if how == "asked twice":
            drain.ask()

    script.on[step] = ask
    assert runner.run(ticket.id) is State.QUEUED
    assert waker.sent == [ticket.id], "another worker is told at once"
    now = current(sqlite_store, ticket)
    assert (now.state, now.attempt, now.error, now.worker) == (State.QUEUED, 0, None, None)
    assert sqlite_store.tickets.due() == [ticket.id]
    assert runner.run(ticket.id) is None, "a worker that ends takes nothing new"
    script.on.clear()
    assert Runner(sqlite_store, vault, settings, worker="b").run(ticket.id) is State.PUBLISHED
    assert len(script.images) == 1


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


def test_a_plugin_may_raise_a_lost_lease_itself(
    sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script
) -> None:
    script.fail("upload", LeaseLost())
    assert runner.run(ticket.id) is None
    assert current(sqlite_store, ticket).state is State.PUBLISHING
