"""A withdrawal ends with a clean cloud, or with a published ticket that says what is still there."""

import pytest

from publisher.core.errors import PermanentCloudError, PublisherError, Reason, TransientCloudError
from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.core.vault import Vault
from publisher.store import AccountGiven, Store
from tests.records import current, put_back, words
from tests.unit.workers.runner.scripted_cloud import SECRET, Script, Waker, cloud_ids, take_over
from workers.drain import Drain
from workers.runner import Runner

pytestmark = pytest.mark.long


@pytest.fixture
def published(sqlite_store: Store, ticket: Ticket, runner: Runner, script: Script) -> Ticket:
    """Return a published ticket."""
    assert runner.run(ticket.id) is State.PUBLISHED
    script.asked.clear()
    return current(sqlite_store, ticket)


@pytest.fixture
def withdrawing(sqlite_store: Store, vault: Vault, published: Ticket) -> Ticket:
    return request(sqlite_store, vault, published)


def request(store: Store, vault: Vault, ticket: Ticket) -> Ticket:
    given = AccountGiven(ticket.account, vault.seal({"password": SECRET}))
    return store.tickets.request_withdrawal(ticket.id, given)


def due_now(store: Store, ticket: Ticket) -> None:
    put_back(store, ticket, lease_until=0.01, wake_at=0.01)


def test_a_withdrawal_deletes_the_image_and_the_secrets(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    states: list[State] = []
    script.on["delete"] = lambda: states.append(current(sqlite_store, withdrawing).state)
    assert withdrawing.state is State.WITHDRAWING
    assert sqlite_store.tickets.due() == [withdrawing.id]
    assert runner.run(withdrawing.id) is State.WITHDRAWN
    now = current(sqlite_store, withdrawing)
    assert (now.state, now.cloud_id, now.sealed_secrets, now.error) == (State.WITHDRAWN, None, None, None)
    assert now.message == "Withdrawn: the image is no longer in the cloud"
    assert now.progress.sent == now.progress.total, "what was uploaded is still known"
    assert script.images == {}
    assert states == [State.WITHDRAWING]
    assert cloud_ids(sqlite_store, withdrawing) == ["gone"]
    assert script.secrets[-1] == {"password": SECRET}
    assert script.asked == ["connect", "tagged", "delete", "tagged"]
    assert runner.run(withdrawing.id) is None
    assert words(sqlite_store, withdrawing)[-3:] == [
        "Withdrawal requested, with the account that was given",
        "Claimed, to withdraw the image, by a",
        "Withdrawn: nothing is left in the cloud",
    ]


def test_the_published_image_keeps_its_id_until_it_is_gone(
    sqlite_store: Store, published: Ticket, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    seen: list[str | None] = []
    script.on["delete"] = lambda: seen.append(current(sqlite_store, withdrawing).cloud_id)
    runner.run(withdrawing.id)
    assert seen == [published.cloud_id]


def test_leftovers_are_deleted_before_the_published_image(
    sqlite_store: Store, published: Ticket, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    """Also what no journal lists, such as after a restored backup."""
    script.strays["stray"] = withdrawing.uid
    script.strays["of another ticket"] = "another"
    assert runner.run(withdrawing.id) is State.WITHDRAWN
    assert script.deleted == ["stray", published.cloud_id]
    assert list(script.strays) == ["of another ticket"]


def test_a_leftover_that_cannot_be_deleted_keeps_the_image_published(
    sqlite_store: Store, published: Ticket, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    script.strays["stray"] = withdrawing.uid
    script.fail("delete", PermanentCloudError("stray is protected", reason=Reason.FORBIDDEN))
    assert runner.run(withdrawing.id) is State.PUBLISHED
    assert list(script.images) == [published.cloud_id]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("delete", PermanentCloudError("the image is protected", reason=Reason.FORBIDDEN)),
        ("connect", PermanentCloudError("the login was not accepted", reason=Reason.CREDENTIALS)),
        ("tagged", PermanentCloudError("no list for you", reason=Reason.FORBIDDEN)),
    ],
)
def test_a_refused_withdrawal_leaves_the_ticket_published_and_says_why(
    sqlite_store: Store,
    vault: Vault,
    published: Ticket,
    withdrawing: Ticket,
    runner: Runner,
    script: Script,
    step: str,
    error: PublisherError,
) -> None:
    script.fail(step, error)
    assert runner.run(withdrawing.id) is State.PUBLISHED
    now = current(sqlite_store, withdrawing)
    assert (now.state, now.cloud_id, now.finished) == (State.PUBLISHED, published.cloud_id, published.finished)
    assert now.message == f"Published in RegionOne; not withdrawn: {error}"
    assert (now.reason, now.sealed_secrets) == (error.reason, None)
    assert now.counts_from == published.accepted
    assert now.error_detail == f"still in the cloud: {published.cloud_id}"
    assert now.bytes_per_second == published.bytes_per_second
    assert list(script.images) == [published.cloud_id]
    script.on.clear()
    assert request(sqlite_store, vault, now).state is State.WITHDRAWING, "it can be requested again"
    assert current(sqlite_store, now).error is None
    assert runner.run(withdrawing.id) is State.WITHDRAWN


@pytest.mark.parametrize("error", [TransientCloudError("Glance is away"), KeyError("internal: 10.9.8.7")])
@pytest.mark.parametrize("step", ["connect", "delete", "tagged"])
def test_a_cloud_that_is_away_is_tried_again(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script, step: str, error: Exception
) -> None:
    script.fail(step, error)
    assert runner.run(withdrawing.id) is State.WITHDRAWING
    now = current(sqlite_store, withdrawing)
    said = str(error) if isinstance(error, TransientCloudError) else "an unexpected error in the worker"
    assert (now.state, now.error) == (State.WITHDRAWING, said)
    assert now.message == f"Withdrawing; will be tried again: {said}"
    assert now.sealed_secrets is not None
    assert runner.run(withdrawing.id) is None, "only after a while"
    due_now(sqlite_store, withdrawing)
    assert sqlite_store.tickets.due() == [withdrawing.id]
    script.on.clear()
    assert runner.run(withdrawing.id) is State.WITHDRAWN
    assert current(sqlite_store, withdrawing).error is None
    assert "10.9.8.7" not in f"{current(sqlite_store, withdrawing)} {words(sqlite_store, withdrawing)}"


def test_a_cloud_that_stays_away_is_given_up_at_the_deadline(
    sqlite_store: Store, published: Ticket, withdrawing: Ticket, runner: Runner, script: Script, settings: Settings
) -> None:
    script.fail("delete", TransientCloudError("Glance is away"))
    assert runner.run(withdrawing.id) is State.WITHDRAWING
    put_back(sqlite_store, withdrawing, lease_until=0.01, withdrawal=settings.deadline_seconds + 1)
    assert runner.run(withdrawing.id) is State.PUBLISHED
    now = current(sqlite_store, withdrawing)
    assert now.reason == Reason.DEADLINE
    assert now.error == "not withdrawn: given up after 24 h; the last error: Glance is away"
    assert now.error_detail == f"perhaps still in the cloud: {published.cloud_id}"
    assert now.cloud_id == published.cloud_id


def test_the_deadline_counts_from_the_request_for_the_withdrawal(
    sqlite_store: Store, vault: Vault, published: Ticket, runner: Runner, settings: Settings
) -> None:
    put_back(sqlite_store, published, accepted=settings.deadline_seconds + 1)
    request(sqlite_store, vault, published)
    assert runner.run(published.id) is State.WITHDRAWN


def test_an_image_that_stays_in_the_list_is_not_withdrawn_yet(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    script.on["delete"] = lambda: script.strays.update(late=withdrawing.uid)
    assert runner.run(withdrawing.id) is State.WITHDRAWING
    assert current(sqlite_store, withdrawing).error == "the cloud still lists late after its deletion"
    script.on.clear()
    due_now(sqlite_store, withdrawing)
    assert runner.run(withdrawing.id) is State.WITHDRAWN
    assert script.strays == {}


def test_an_image_that_is_gone_is_withdrawn_even_if_the_last_search_fails(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    """It must not become `published` again."""
    script.on["delete"] = lambda: script.fail("tagged", PermanentCloudError("no list for you"))
    assert runner.run(withdrawing.id) is State.WITHDRAWN
    assert "could not be searched again: no list for you" in words(sqlite_store, withdrawing)[-1]


def test_an_image_that_somebody_has_deleted_is_withdrawn(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    script.images.clear()
    assert runner.run(withdrawing.id) is State.WITHDRAWN


@pytest.mark.parametrize("kept", [False, True])
def test_a_stale_sign_in_is_replaced(withdrawing: Ticket, runner: Runner, script: Script, kept: bool) -> None:
    failures = iter([PermanentCloudError("an old catalog")])
    script.kept = kept

    def fail_once() -> None:
        if error := next(failures, None):
            raise error

    script.on["tagged"] = fail_once
    assert runner.run(withdrawing.id) is (State.WITHDRAWN if kept else State.PUBLISHED)


def test_a_worker_that_lost_its_lease_writes_nothing(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    script.on["delete"] = lambda: take_over(sqlite_store, withdrawing)
    assert runner.run(withdrawing.id) is None
    now = current(sqlite_store, withdrawing)
    assert (now.state, now.worker) == (State.WITHDRAWING, "another")


def test_a_worker_that_was_killed_at_any_step_is_succeeded(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script
) -> None:
    class Killed(BaseException):
        pass

    for step in ("connect", "tagged", "delete"):
        script.fail(step, Killed())
        with pytest.raises(Killed):
            runner.run(withdrawing.id)
        script.on.clear()
        assert current(sqlite_store, withdrawing).state is State.WITHDRAWING
        due_now(sqlite_store, withdrawing)
    assert runner.run(withdrawing.id) is State.WITHDRAWN
    assert script.images == {}


def test_a_worker_that_shuts_down_hands_the_withdrawal_over(
    sqlite_store: Store, withdrawing: Ticket, runner: Runner, script: Script, drain: Drain, waker: Waker
) -> None:
    script.on["tagged"] = lambda: drain.ask(now=True)
    assert runner.run(withdrawing.id) is State.WITHDRAWING
    assert waker.sent == [withdrawing.id]
    now = current(sqlite_store, withdrawing)
    assert (now.state, now.error) == (State.WITHDRAWING, None)


def test_a_withdrawal_needs_no_image(sqlite_store: Store, withdrawing: Ticket, runner: Runner) -> None:
    assert sqlite_store.images.delete(withdrawing.owner, withdrawing.appliance_id, withdrawing.image_id)
    assert runner.run(withdrawing.id) is State.WITHDRAWN
