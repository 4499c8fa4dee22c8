"""An image that a newer one replaces is hidden, renamed or withdrawn, unless it is in use; it stays published."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

import workers.cloud_work
from memory_cloud.publisher import CLOUD, MemoryPublisher, StoredImage
from publisher.core.errors import PermanentCloudError, TransientCloudError
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import Older, State, Ticket
from publisher.core.vault import Vault
from publisher.store import Store
from tests.records import OWNER, add_ticket, current, put_back, words
from tests.unit.workers.runner.scripted_cloud import take_over
from workers.drain import Drain
from workers.runner import Runner

pytestmark = pytest.mark.long

CHANGES = [Older.HIDE, Older.RENAME]
NOT_DONE = {Older.HIDE: "not hidden", Older.RENAME: "not renamed", Older.WITHDRAW: "not withdrawn"}


@pytest.fixture(autouse=True)
def _memory_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(workers.cloud_work, "plugin", lambda platform: MemoryPublisher)
    CLOUD.images.clear()
    yield
    CLOUD.images.clear()


class Lineage:
    """Two published images, of which the newer one replaces the older one."""

    def __init__(self, store: Store, vault: Vault, image: Image, runner: Runner, older: Older) -> None:
        self._store, self._runner, self.older = store, runner, older
        self._secrets = vault.seal({"password": "right"})
        self._image = image
        account = store.accounts.find(OWNER, name="lab") or store.accounts.add(
            owner=OWNER, name="lab", platform="memory", fields={"login": "anybody"}, sealed_secrets=self._secrets
        )
        self._account_id = account.id
        self.first, self.second = self.publish(), self.publish()

    def publish(self) -> Ticket:
        ticket = add_ticket(
            self._store,
            image_id=self._image.id,
            image_size=self._image.size,
            account={"login": "anybody", "name": "lab"},
            account_id=self._account_id,
            sealed_secrets=self._secrets,
            lineage="web",
            keep=1 if self.older is Older.WITHDRAW else None,
            older=self.older,
        )
        assert self._runner.run(ticket.id) is State.PUBLISHED
        return current(self._store, ticket)

    def work(self) -> Ticket:
        """Let a worker take the first ticket, and return it."""
        put_back(self._store, self.first, lease_until=1, wake_at=1)
        self._runner.run(self.first.id)
        return self.now

    @property
    def now(self) -> Ticket:
        return current(self._store, self.first)

    def stored(self, ticket: Ticket) -> StoredImage:
        return next(each for each in CLOUD.images.values() if each.ticket_uid == ticket.uid)


@pytest.fixture
def lineage(sqlite_store: Store, vault: Vault, image: Image, runner: Runner, older: Older) -> Lineage:
    return Lineage(sqlite_store, vault, image, runner, older)


@pytest.mark.parametrize("older", [Older.HIDE])
def test_the_older_image_is_hidden_and_not_the_new_one(lineage: Lineage, sqlite_store: Store) -> None:
    assert [each.hidden for each in CLOUD.images.values()] == [False, False]
    after = lineage.work()
    assert (lineage.stored(lineage.first).hidden, lineage.stored(lineage.second).hidden) == (True, False)
    assert (after.state, after.retired) == (State.PUBLISHED, Older.HIDE)
    assert words(sqlite_store, lineage.first)[-1] == "Hidden in the cloud"


@pytest.mark.parametrize("older", [Older.RENAME])
def test_the_older_image_is_renamed_with_its_date(lineage: Lineage, sqlite_store: Store) -> None:
    after = lineage.work()
    at = datetime.fromtimestamp(lineage.first.finished or 0, UTC)
    assert lineage.stored(lineage.first).name == f"an image-{at:%Y-%m-%d-%H%M%S}"
    assert lineage.stored(lineage.second).name == "an image"
    assert after.retired == Older.RENAME
    assert words(sqlite_store, lineage.first)[-1] == f"Renamed to '{after.dated_name}' in the cloud"


@pytest.mark.parametrize("older", Older)
def test_an_image_that_is_in_use_stays_as_it_is(lineage: Lineage) -> None:
    before = lineage.stored(lineage.first)
    before.used_by = "servers boot from it"
    after = lineage.work()
    assert (before.hidden, before.name) == (False, "an image")
    assert (after.state, after.retire, after.retired) == (State.PUBLISHED, None, None)
    if lineage.older is not Older.LEAVE:
        said = f"{NOT_DONE[lineage.older]}: the image is in use: servers boot from it"
        assert after.message == f"Published in memory; {said}"
    before.used_by = None
    lineage.publish()
    changed = lineage.work()
    assert changed.error is None
    assert (changed.state is State.WITHDRAWN) == (lineage.older is Older.WITHDRAW)


@pytest.mark.parametrize("older", [Older.WITHDRAW])
def test_its_owner_may_withdraw_an_image_that_is_in_use(lineage: Lineage, sqlite_store: Store) -> None:
    lineage.stored(lineage.second).used_by = "servers boot from it"
    sqlite_store.tickets.request_withdrawal(lineage.second.id)
    lineage.first = lineage.second
    assert lineage.work().state is State.WITHDRAWN


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermanentCloudError("the cloud forbids it"), "not hidden: the cloud forbids it"),
        (TransientCloudError("the cloud is away"), "not hidden yet: the cloud is away"),
        (KeyError("internal: 10.9.8.7"), "not hidden yet: an unexpected error in the worker"),
    ],
)
@pytest.mark.parametrize("method", ["connect", "in_use", "hide"])
@pytest.mark.parametrize("older", [Older.HIDE])
def test_errors_leave_the_ticket_published_and_are_shown(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, said: str
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(MemoryPublisher, method, fail)
        after = lineage.work()
    assert after.state is State.PUBLISHED
    assert after.message == f"Published in memory; {said}"
    again = isinstance(error, PermanentCloudError)
    assert (after.retire, after.sealed_secrets is None) == ((None, True) if again else (Older.HIDE, False))
    if not again:
        assert lineage.work().retired == Older.HIDE


@pytest.mark.parametrize("older", [Older.HIDE])
def test_a_cloud_that_stays_away_is_given_up_at_the_deadline(
    lineage: Lineage, sqlite_store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise TransientCloudError("the cloud is away")

    monkeypatch.setattr(MemoryPublisher, "hide", fail)
    lineage.work()
    put_back(sqlite_store, lineage.first, withdrawal=settings.deadline_seconds + 1)
    after = lineage.work()
    assert after.error == "not hidden: given up after 24 h; the last error: the cloud is away"
    assert (after.retire, after.sealed_secrets) == (None, None)


@pytest.mark.parametrize("older", CHANGES)
def test_a_worker_that_was_killed_or_lost_its_lease_is_succeeded(
    lineage: Lineage, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = str(lineage.older)
    original = getattr(MemoryPublisher, method)

    class Killed(BaseException):
        pass

    def kill(*given: object) -> None:
        original(*given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MemoryPublisher, method, kill)
        with pytest.raises(Killed):
            lineage.work()
    assert lineage.now.retire == lineage.older

    def lose(*given: object) -> None:
        take_over(sqlite_store, lineage.first)
        original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryPublisher, method, lose)
        lineage.work()
    assert (lineage.now.retire, lineage.now.worker) == (lineage.older, "another")
    assert lineage.work().retired == lineage.older


@pytest.mark.parametrize("older", [Older.HIDE])
def test_a_worker_that_shuts_down_hands_it_over(
    lineage: Lineage, sqlite_store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryPublisher, "in_use", lambda *given: drain.ask(now=True))
    after = lineage.work()
    assert (after.state, after.retire, after.error) == (State.PUBLISHED, Older.HIDE, None)
    assert sqlite_store.tickets.anything_due()
