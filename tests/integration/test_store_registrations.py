"""Registrations of images, on each kind of database. One worker claims a registration, and only it may write."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from publisher.core.errors import Conflict, LeaseLost, NotFound
from publisher.core.image import Digests, Image, ImageState
from publisher.store import Store
from publisher.store.registrations import Registration
from tests.patience import PATIENCE
from tests.records import APPLIANCE, OWNER, add_owner, add_ticket

DIGESTS = Digests(9, "5" * 32, "2" * 64, "f" * 128)


def begin(store: Store) -> Image:
    return store.registrations.begin(owner=OWNER, appliance_id=APPLIANCE, name="x", wanted_format=None, source="x.raw")


def claimed(store: Store, image: Image, seconds: float = 60.0) -> Registration:
    claim = store.registrations.claim(image.id, "w1", seconds)
    assert claim is not None
    return claim


def finish(store: Store, claim: Registration) -> None:
    store.registrations.record_location(claim, "x.raw")
    store.registrations.ready(claim, format="raw", disk_format="raw", virtual_size=9, digests=DIGESTS)


def state(store: Store, image: Image) -> ImageState:
    found = store.images.get(image.id)
    assert found is not None
    return found.state


@pytest.fixture(autouse=True)
def _owner(store: Store) -> None:
    add_owner(store)


def test_registration_goes_from_queued_to_ready(store: Store) -> None:
    image = begin(store)
    assert (image.state, image.size, image.location) == (ImageState.QUEUED, 0, "")
    claim = claimed(store, image)
    assert (claim.image.state, claim.image.attempt, claim.token) == (ImageState.FETCHING, 1, 1)
    assert store.registrations.claim(image.id, "w2", 60.0) is None
    store.registrations.renew(claim, 60.0, sent=4, total=9)
    found = store.images.get(image.id)
    assert found is not None
    assert (found.sent, found.total, found.message) == (4, 9, "Fetching 0 of 0 MiB")
    finish(store, claim)
    found = store.images.get(image.id)
    assert found is not None
    assert (found.ready, found.size, found.sent, found.sha256, found.location) == (True, 9, 9, "2" * 64, "x.raw")
    with pytest.raises(LeaseLost):
        store.registrations.failed(claim, "too late")


def test_registration_of_an_unknown_owner_is_refused(store: Store) -> None:
    with pytest.raises(Conflict, match="there is no user 'nobody'"):
        store.registrations.begin(owner="nobody", appliance_id=1, name="x", wanted_format=None, source="x")


def test_worker_that_has_lost_its_lease_writes_nothing(store: Store) -> None:
    image = begin(store)
    late = claimed(store, image, -1.0)
    claim = claimed(store, image)
    assert (claim.token, claim.image.attempt) == (2, 2)
    writes: list[Callable[[], None]] = [
        lambda: store.registrations.renew(late, 60.0, sent=1, total=2),
        lambda: store.registrations.record_location(late, "other"),
        lambda: finish(store, late),
        lambda: store.registrations.failed(late, "x"),
        lambda: store.registrations.retry(late, delay_seconds=0.0, error="x"),
        lambda: store.registrations.release(late),
        lambda: store.registrations.give_up(late),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    finish(store, claim)


def test_an_expired_lease_is_never_renewed(store: Store) -> None:
    image = begin(store)
    late = claimed(store, image, -1.0)
    with pytest.raises(LeaseLost):
        store.registrations.renew(late, 60.0, sent=1, total=2)
    with pytest.raises(LeaseLost):
        store.registrations.record_location(late, "somewhere")
    assert claimed(store, image).token == late.token + 1


def test_registration_is_free_at_once_after_its_lease_is_given_up(store: Store) -> None:
    image = begin(store)
    held = claimed(store, image)
    store.registrations.give_up(held)
    assert store.registrations.due() == [image.id]
    with pytest.raises(LeaseLost):
        store.registrations.renew(held, 60.0, sent=1, total=2)
    assert claimed(store, image).image.attempt == 2


def test_only_one_of_many_workers_gets_the_claim(store: Store, stores: Callable[[], Store]) -> None:
    image, others = begin(store), [stores() for _ in range(4)]
    barrier, claims = threading.Barrier(4), []

    def claim(other: Store) -> None:
        barrier.wait(10 * PATIENCE)
        claims.append(other.registrations.claim(image.id, "w", 60.0))

    threads = [threading.Thread(target=claim, args=[each]) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30 * PATIENCE)
    assert len([each for each in claims if each]) == 1


def test_cancelled_registration_can_be_generated_again(store: Store) -> None:
    image = begin(store)
    claim = claimed(store, image)
    store.registrations.cancel(OWNER, APPLIANCE, image.id)
    assert state(store, image) is ImageState.CANCELLED
    with pytest.raises(LeaseLost):
        store.registrations.renew(claim, 60.0, sent=1, total=2)
    with pytest.raises(Conflict, match="has ended: it is cancelled"):
        store.registrations.cancel(OWNER, APPLIANCE, image.id)
    for owner, appliance in (("anna", APPLIANCE), (OWNER, 5)):
        with pytest.raises(NotFound):
            store.registrations.cancel(owner, appliance, image.id)
        with pytest.raises(NotFound):
            store.registrations.again(owner, appliance, image.id)
    again = store.registrations.again(OWNER, APPLIANCE, image.id)
    assert (again.state, again.revision, again.attempt) == (ImageState.QUEUED, 2, 0)
    with pytest.raises(LeaseLost):
        store.registrations.renew(claim, 60.0, sent=1, total=2)
    finish(store, claimed(store, image))
    add_ticket(store, image_id=image.id)
    with pytest.raises(Conflict, match=f"image {image.id} is needed by ticket 1"):
        store.registrations.again(OWNER, APPLIANCE, image.id)


def test_registration_is_due_if_no_message_and_no_worker_has_it(store: Store) -> None:
    image = begin(store)
    assert store.registrations.due() == [], "its message is under way"
    store.registrations.woken(image.id, sent=False)
    assert store.registrations.due() == [image.id]
    store.registrations.woken(image.id, sent=True)
    assert store.registrations.due() == []
    claim = claimed(store, image, -1.0)
    assert store.registrations.due() == [image.id], "whoever had it is gone"
    store.registrations.retry(claim, delay_seconds=60.0, error="x")
    assert store.registrations.due() == []
    assert store.registrations.claim(image.id, "w", 60.0) is None, "it is not time yet"
