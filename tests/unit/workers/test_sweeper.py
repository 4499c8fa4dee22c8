"""The sweeper deletes an orphan at its second sighting. Objects in doubt stay."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from memory_cloud.publisher import CLOUD, MemoryPublisher
from publisher.core.errors import TransientCloudError
from publisher.core.settings import Settings
from publisher.core.ticket import Account, State, Target
from publisher.core.vault import Vault
from publisher.store import Store
from publisher.store.database import db_now, reading, sightings, sweep_refusals, tombstones, writing
from tests.patience import PATIENCE
from tests.records import APPLIANCE, OWNER, add_owner, add_ticket, current, put_back
from tests.unit.workers.leftovers import HOUR, put, ticket_that_left
from workers.clouds.base import Tags
from workers.sweeper import ROLE, Outcome, Sweeper, SweepFinding, words

pytestmark = pytest.mark.long


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, sweep_grace_seconds=HOUR)


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault.from_file(settings.key_file)


@pytest.fixture
def sweeper(store: Store, vault: Vault, settings: Settings) -> Sweeper:
    return Sweeper(store, vault, settings, worker="a")


@pytest.fixture(autouse=True)
def _empty_cloud() -> Iterator[None]:
    CLOUD.images.clear()
    yield
    CLOUD.images.clear()


def first_seen_an_hour_ago(store: Store) -> None:
    with writing(store.engine) as connection:
        connection.execute(sightings.update().values(first=db_now() - HOUR - 1))


def twice(store: Store, sweeper: Sweeper) -> list[SweepFinding]:
    """Sweep twice, an hour apart, and return the findings of the second sweep."""
    list(sweeper.sweep())
    first_seen_an_hour_ago(store)
    return list(sweeper.sweep())


def test_orphan_is_deleted_at_its_second_sighting(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket = ticket_that_left(store, vault, "left")
    assert [(each.outcome, each.cloud_id) for each in sweeper.sweep()] == [(Outcome.SEEN, "left")]
    assert [each.outcome for each in sweeper.sweep()] == [Outcome.SEEN], "the second sighting came too soon"
    first_seen_an_hour_ago(store)
    assert [each.outcome for each in sweeper.sweep(dry_run=True)] == [Outcome.DUE]
    assert "left" in CLOUD.images
    assert [each.outcome for each in sweeper.sweep()] == [Outcome.REMOVED]
    assert CLOUD.images == {}
    assert [(each.cloud_id, each.state) for each in store.tickets.journal(ticket.id)] == [("left", "gone")]
    assert current(store, ticket).cloud_id is None
    assert list(sweeper.sweep()) == []
    store.tickets.retry(ticket.id)
    assert store.leases.claim(ticket.id, "b", 60), "it is not held any longer"


def test_dry_run_does_not_count_as_a_sighting(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket_that_left(store, vault, "left")
    for _ in range(2):
        assert [each.outcome for each in sweeper.sweep(dry_run=True)] == [Outcome.SEEN]
        first_seen_an_hour_ago(store)


@pytest.mark.parametrize("state", [State.PUBLISHED, State.QUEUED, State.PUBLISHING, State.CANCELLING])
def test_object_of_a_ticket_that_needs_it_stays(store: Store, vault: Vault, sweeper: Sweeper, state: State) -> None:
    ticket = ticket_that_left(store, vault, "needed", state)
    store_account(store, vault)
    assert ticket.state is state
    assert twice(store, sweeper) == []
    assert "needed" in CLOUD.images


def store_account(store: Store, vault: Vault) -> None:
    """Store the account, so that it is known after its tickets are published or deleted."""
    if store.users.get(OWNER) is None:
        add_owner(store)
    sealed = vault.seal({"password": "x"})
    store.accounts.add(owner=OWNER, name="mine", platform="memory", fields={"login": "anybody"}, sealed_secrets=sealed)


def test_other_objects_of_a_published_ticket_are_deleted(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    store_account(store, vault)
    ticket = add_ticket(store)
    claim = store.leases.claim(ticket.id, "a", 60)
    assert claim
    for cloud_id in ("half", "whole"):
        store.leases.plan(claim, cloud_id)
        put(store, cloud_id, ticket.uid)
    store.leases.published(claim, cloud_id="whole", location=None)
    put_back(store, ticket, finished=2 * HOUR)
    assert [(each.outcome, each.cloud_id) for each in twice(store, sweeper)] == [(Outcome.REMOVED, "half")]
    assert set(CLOUD.images) == {"whole"}


@pytest.mark.parametrize("account", ["stored", "its own"])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_published_image_stays_when_its_ticket_is_deleted(
    store: Store, vault: Vault, sweeper: Sweeper, one_by_one: bool, account: str
) -> None:
    if account == "stored":
        store_account(store, vault)
    tickets = [ticket_that_left(store, vault, "mine", State.PUBLISHED), ticket_that_left(store, vault, "left")]
    if one_by_one:
        for each in tickets:
            store.tickets.remove(each.id)
    else:
        store.tickets.remove_all(OWNER, APPLIANCE)
    assert [(each.outcome, each.cloud_id) for each in twice(store, sweeper)] == [(Outcome.REMOVED, "left")]
    assert set(CLOUD.images) == {"mine"}
    assert secrets_kept(store) == []


def secrets_kept(store: Store) -> list[bytes]:
    """Return the sealed secrets of deleted tickets."""
    with reading(store.engine) as connection:
        found = select(tombstones.c.sealed_secrets).where(tombstones.c.sealed_secrets.is_not(None))
        return list(connection.execute(found).scalars())


def test_the_secrets_of_a_deleted_ticket_are_not_kept_for_ever(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket = ticket_that_left(store, vault, "left")
    CLOUD.images.clear()  # somebody has removed it
    store.tickets.remove(ticket.id)
    assert list(sweeper.sweep()) == []
    assert len(secrets_kept(store)) == 1
    with writing(store.engine) as connection:
        connection.execute(tombstones.update().values(created=db_now() - 31 * 86400))
    assert list(sweeper.sweep()) == []
    assert secrets_kept(store) == []
    assert store.sweeping.scopes() == []


@pytest.mark.parametrize("whose", ["a ticket that is in no record", "a ticket that did not make it"])
def test_object_in_no_journal_is_reported_and_stays(store: Store, vault: Vault, sweeper: Sweeper, whose: str) -> None:
    """An example is a snapshot of a server that was booted from a published image."""
    ticket = ticket_that_left(store, vault, "left")
    put(store, "copy", ticket.uid if whose == "a ticket that did not make it" else "another-uid")
    found = twice(store, sweeper)
    assert {(each.outcome, each.cloud_id) for each in found} == {(Outcome.UNKNOWN, "copy"), (Outcome.REMOVED, "left")}
    assert set(CLOUD.images) == {"copy"}


def test_objects_of_another_installation_are_not_reported(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket_that_left(store, vault, "left")
    CLOUD.images["left"].deployment = "another"
    assert twice(store, sweeper) == []
    assert "left" in CLOUD.images


def test_orphan_of_a_recently_ended_ticket_stays(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    put_back(store, ticket_that_left(store, vault, "left"), finished=HOUR - 60)
    assert twice(store, sweeper) == []


def test_sightings_start_again_if_the_object_was_needed_meanwhile(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket = ticket_that_left(store, vault, "left")
    list(sweeper.sweep())
    first_seen_an_hour_ago(store)
    store.tickets.retry(ticket.id)
    assert list(sweeper.sweep()) == []
    claim = store.leases.claim(ticket.id, "a", 60)
    assert claim
    store.leases.failed(claim, error="again")
    put_back(store, ticket, finished=2 * HOUR)
    assert [each.outcome for each in sweeper.sweep()] == [Outcome.SEEN]


def test_ticket_cannot_be_claimed_while_its_orphan_is_deleted(
    store: Store, vault: Vault, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the object stays, or no worker adopts it."""
    ticket = ticket_that_left(store, vault, "left")
    claims: list[object] = []
    delete = MemoryPublisher.delete

    def retried_while_it_is_deleted(self: MemoryPublisher, cloud_id: str, tags: Tags) -> None:
        store.tickets.retry(ticket.id)
        claims.append(store.leases.claim(ticket.id, "b", 60))
        delete(self, cloud_id, tags)

    monkeypatch.setattr(MemoryPublisher, "delete", retried_while_it_is_deleted)
    assert [each.outcome for each in twice(store, sweeper)] == [Outcome.REMOVED]
    assert claims == [None]
    assert store.leases.claim(ticket.id, "b", 60)


def test_orphan_stays_if_its_ticket_is_retried_before_the_deletion(store: Store, vault: Vault) -> None:
    ticket = ticket_that_left(store, vault, "left")
    store.tickets.retry(ticket.id)
    with store.sweeping.removing(ticket.uid, "left", HOUR, 60) as free:
        assert not free
    assert [each.state for each in store.tickets.journal(ticket.id)] == ["present"]
    assert store.leases.claim(ticket.id, "b", 60)


@pytest.mark.parametrize("meanwhile", ["claimed", "published"])
def test_paused_sweeper_takes_nothing_from_a_later_attempt(store: Store, vault: Vault, meanwhile: str) -> None:
    ticket = ticket_that_left(store, vault, "left")
    with store.sweeping.removing(ticket.uid, "left", HOUR, -1) as free:  # its lease ends at once
        assert free
        assert [each.state for each in store.tickets.journal(ticket.id)] == ["condemned"], "not to be adopted"
        store.tickets.retry(ticket.id)
        claim = store.leases.claim(ticket.id, "b", 60)
        assert claim
        store.leases.plan(claim, "new")
        store.leases.mark(claim, "new", "present")
        if meanwhile == "published":
            store.leases.published(claim, cloud_id="new", location=None)
    if meanwhile == "claimed":
        assert store.leases.claim(ticket.id, "c", 60) is None, "the lease holds"
        store.leases.published(claim, cloud_id="new", location=None)
    assert current(store, ticket).cloud_id == "new"
    assert [(each.cloud_id, each.state) for each in store.tickets.journal(ticket.id)] == [
        ("left", "gone"),
        ("new", "present"),
    ]


def test_sweeper_continues_after_a_failed_turn(
    store: Store, vault: Vault, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[None] = []
    stop = threading.Event()
    each = Sweeper(store, vault, dataclasses.replace(settings, sweep_seconds=0.01), worker="a", stop=stop)

    def fails(*, patient: bool) -> list[SweepFinding]:
        assert patient
        turns.append(None)
        if len(turns) == 2:
            stop.set()
        raise RuntimeError

    monkeypatch.setattr(each, "sweep", fails)
    each.run()
    assert len(turns) == 2


def test_failed_deletion_is_reported_and_tried_again(
    store: Store, vault: Vault, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = ticket_that_left(store, vault, "left")
    with monkeypatch.context() as patch:

        def away(self: MemoryPublisher, cloud_id: str, tags: Tags) -> None:
            raise TransientCloudError("the cloud is away")

        patch.setattr(MemoryPublisher, "delete", away)
        (found,) = twice(store, sweeper)
        assert (found.outcome, found.error) == (Outcome.FAILED, "the cloud is away")
    assert [each.state for each in store.tickets.journal(ticket.id)] == ["condemned"]
    assert [each.outcome for each in sweeper.sweep()] == [Outcome.REMOVED]


def test_unreachable_account_is_reported_and_others_are_swept(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket_that_left(store, vault, "unreachable", account={"login": "refuse"})
    ticket_that_left(store, vault, "exotic", platform="exotic")
    ticket_that_left(store, vault, "left")
    found = twice(store, sweeper)
    assert {(each.outcome, each.cloud_id) for each in found} >= {(Outcome.FAILED, None), (Outcome.REMOVED, "left")}
    said = " | ".join(words(each) for each in found)
    assert "memory account refuse cannot be listed: the memory cloud refused the login" in said
    assert "no plugin for the platform 'exotic'" in said


@pytest.mark.parametrize("step", ["connect", "tagged", "delete"])
def test_a_password_that_the_cloud_repeats_is_hidden(
    store: Store, vault: Vault, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ticket_that_left(store, vault, "left", sealed_secrets=vault.seal({"password": "hunter2"}))

    def repeats(*_: object) -> None:
        raise TransientCloudError("the gateway got joe:hunter2@host")

    monkeypatch.setattr(MemoryPublisher, step, repeats)
    found = twice(store, sweeper)
    assert {each.error for each in found if each.error} == {"the gateway got joe:***@host"}


def test_ticket_that_created_nothing_causes_no_sign_in(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    """Its password may be wrong, and repeated sign-ins could lock the account."""
    add_ticket(store, account={"login": "refuse"}, sealed_secrets=vault.seal({"password": "x"}))
    assert list(sweeper.sweep()) == []


def test_mistyped_project_of_a_stored_account_causes_no_sign_in(
    store: Store, vault: Vault, sweeper: Sweeper, sign_ins: list[Target]
) -> None:
    store_account(store, vault)
    (account,) = store.accounts.list()
    fields, id = account.fields, account.id
    add_ticket(store, account=fields, account_id=id, target={"keystoneProject": "mistyped", "displayName": "x"})
    assert list(sweeper.sweep()) == []
    assert sign_ins == [], "nothing was made there"
    right = {"keystoneProject": "right", "displayName": "x"}
    ticket_that_left(store, vault, "mine", State.PUBLISHED, account=fields, account_id=id, target=right)
    assert list(sweeper.sweep()) == []
    assert [each.fields["keystoneProject"] for each in sign_ins] == ["right"]


def test_account_with_a_new_login_causes_no_sign_in(
    store: Store, vault: Vault, sweeper: Sweeper, sign_ins: list[Target]
) -> None:
    """No ticket created anything under the new login."""
    store_account(store, vault)
    (account,) = store.accounts.list()
    ticket_that_left(store, vault, "mine", State.PUBLISHED, account=account.fields, account_id=account.id)
    store.accounts.update(OWNER, account.id, fields={"login": "another"})
    assert list(sweeper.sweep()) == []
    assert sign_ins == []


@pytest.fixture
def sign_ins(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """The targets to which the sweeper signs in."""
    found: list[Target] = []
    connect = MemoryPublisher.connect

    def noting(account: Account, target: Target, *rest: Any) -> MemoryPublisher:
        found.append(target)
        return connect(account, target, *rest)

    monkeypatch.setattr(MemoryPublisher, "connect", noting)
    return found


def left_alone_for(store: Store) -> float:
    """Return the seconds between the last refusal and the next try."""
    with reading(store.engine) as connection:
        row = connection.execute(select(sweep_refusals)).one()
    return float(row.until - row.last)


def let_it_pass(store: Store) -> None:
    with writing(store.engine) as connection:
        connection.execute(sweep_refusals.update().values(until=db_now() - 1))


def test_wait_after_a_refused_sign_in_grows_with_each_refusal(
    store: Store, vault: Vault, sweeper: Sweeper, settings: Settings, sign_ins: list[Target]
) -> None:
    ticket_that_left(store, vault, "unreachable", account={"login": "refuse"})
    waits = []
    for turn in range(1, 8):
        assert [each.outcome for each in sweeper.sweep(patient=True)] == [Outcome.FAILED]
        another = Sweeper(store, vault, settings, worker="b")
        assert list(another.sweep(patient=True)) == [], "whichever worker sweeps"
        assert len(sign_ins) == turn
        waits.append(round(left_alone_for(store) / settings.sweep_seconds, 1))
        let_it_pass(store)
    assert waits == [1.5, 3.5, 7.5, 15.5, 24, 24, 24], "in turns, of an hour each"


def test_sweep_on_request_signs_in_despite_an_earlier_refusal(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    ticket_that_left(store, vault, "unreachable", account={"login": "refuse"})
    for _ in range(2):
        assert [each.outcome for each in sweeper.sweep()] == [Outcome.FAILED]
    let_it_pass(store)
    assert [each.outcome for each in sweeper.sweep(dry_run=True)] == [Outcome.FAILED]
    assert left_alone_for(store) < 0, "one that is only to tell changes nothing"


def test_changed_account_is_tried_at_once(store: Store, vault: Vault, sweeper: Sweeper) -> None:
    store_account(store, vault)
    (account,) = store.accounts.list()
    ticket_that_left(store, vault, "left", account=account.fields, account_id=account.id)
    store.accounts.update(OWNER, account.id, sealed_secrets=vault.seal({"password": "wrong"}))
    assert [each.outcome for each in sweeper.sweep(patient=True)] == [Outcome.FAILED]
    assert list(sweeper.sweep(patient=True)) == []
    store.accounts.update(OWNER, account.id, sealed_secrets=vault.seal({"password": "right"}))
    assert [each.outcome for each in sweeper.sweep(patient=True)] == [Outcome.SEEN]


def test_unavailable_cloud_is_tried_at_every_turn(
    store: Store, vault: Vault, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket_that_left(store, vault, "left")

    def away(*_: object) -> None:
        raise TransientCloudError("no route to it")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryPublisher, "tagged", away)
        for _ in range(2):
            assert [each.outcome for each in sweeper.sweep(patient=True)] == [Outcome.FAILED]
    assert [each.outcome for each in sweeper.sweep(patient=True)] == [Outcome.SEEN]


def test_each_place_is_swept_once(store: Store, vault: Vault) -> None:
    for number in range(3):
        ticket_that_left(store, vault, f"left-{number}")
    ticket_that_left(store, vault, "elsewhere", target={"displayName": "x", "publishLocation": "other"})
    store_account(store, vault)
    assert len(store.sweeping.scopes()) == 2


@pytest.mark.parametrize("deleted", [False, True])
def test_a_place_with_hidden_images_is_searched_for_them(store: Store, vault: Vault, deleted: bool) -> None:
    hidden = ticket_that_left(store, vault, "hidden", target={"displayName": "x", "hidden": True})
    if deleted:
        store.tickets.remove(hidden.id)
    ticket_that_left(store, vault, "left")
    (scope,) = store.sweeping.scopes()
    assert scope.target["hidden"]


@pytest.mark.long
def test_only_one_worker_sweeps_at_a_time(store: Store, vault: Vault, settings: Settings) -> None:
    """The next sweep begins only after an interval, whichever worker runs it."""
    stop = threading.Event()
    swept: list[str] = []
    often = dataclasses.replace(settings, sweep_seconds=0.01)

    class Noting(Sweeper):
        def sweep(self, *, dry_run: bool = False, patient: bool = False) -> Iterator[SweepFinding]:
            swept.append(threading.current_thread().name)
            stop.set()
            yield from ()

    assert store.leadership.acquire(ROLE, "another", 60)
    Noting(store, vault, dataclasses.replace(often, sweep_seconds=0), worker="a", stop=stop).run()
    assert swept == [], "turned off"
    sweeper = threading.Thread(target=Noting(store, vault, often, worker="a", stop=stop).run)
    sweeper.start()
    assert not stop.wait(0.3)
    assert swept == [], "it is another's turn"
    store.leadership.resign(ROLE, "another")
    sweeper.join(10 * PATIENCE)
    assert len(swept) == 1
