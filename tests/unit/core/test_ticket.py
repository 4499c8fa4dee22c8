"""A ticket's states, progress and messages."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.core.ticket import FINAL, MIB, TRANSITIONS, Account, Phase, Progress, State, Ticket

NEXT = {state: sorted(to for from_, to in TRANSITIONS if from_ is state) for state in State}


def ticket(**values: Any) -> Ticket:
    plain: dict[str, Any] = {
        "id": 1,
        "uid": "u",
        "owner": "root",
        "appliance_id": 4,
        "image_id": 7,
        "platform": "memory",
        "account": {},
        "sealed_secrets": None,
        "target": {},
        "name": "n",
        "state": State.QUEUED,
        "phase": Phase.WAITING,
        "progress": Progress(),
        "attempt": 0,
        "cloud_id": None,
        "location": None,
        "error": None,
        "error_detail": None,
        "created": 0.0,
        "modified": 0.0,
        "started": None,
        "finished": None,
        "not_before": 0.0,
        "lease_token": 0,
        "worker": None,
    }
    return Ticket(**(plain | values))


@pytest.mark.long
@given(st.data())
def test_every_path_through_the_transitions_is_valid(data: st.DataObject) -> None:
    """On every path from `queued`: a final state is left only by a retry from the start or by a withdrawal of what is
    published, a ticket that is being cancelled is never worked on again, one that is being withdrawn is only published
    as before or withdrawn, and a final state can always be reached."""
    state, cancelling = State.QUEUED, False
    for _ in range(data.draw(st.integers(0, 20))):
        if not NEXT[state]:
            break
        before, state = state, data.draw(st.sampled_from(NEXT[state]))
        withdraws = (before, state) == (State.PUBLISHED, State.WITHDRAWING)
        assert before not in FINAL or state is State.QUEUED or withdraws
        assert before is not State.WITHDRAWING or state in (State.WITHDRAWING, State.WITHDRAWN, State.PUBLISHED)
        assert not cancelling or before in FINAL or state in (State.CANCELLING, State.CANCELLED, State.FAILED)
        cancelling = state is State.CANCELLING or (cancelling and state is not State.QUEUED)
    assert NEXT[state] or state is State.WITHDRAWN, "only what is withdrawn stays so for good"
    assert FINAL & reachable(state)


def reachable(state: State) -> set[State]:
    found, open_ = {state}, [state]
    while open_:
        for to in NEXT[open_.pop()]:
            if to not in found:
                found.add(to)
                open_.append(to)
    return found


def test_every_state_can_be_reached() -> None:
    assert reachable(State.QUEUED) == set(State)


def test_only_a_claimed_ticket_is_published_or_fails() -> None:
    assert {from_ for from_, to in TRANSITIONS if to is State.PUBLISHED} == {State.PUBLISHING, State.WITHDRAWING}
    assert {from_ for from_, to in TRANSITIONS if to is State.WITHDRAWING} == {State.PUBLISHED, State.WITHDRAWING}
    assert {from_ for from_, to in TRANSITIONS if to is State.FAILED} == {State.PUBLISHING, State.CANCELLING}


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_percentage_is_100_only_if_everything_is_sent(sent: int, total: int) -> None:
    percentage = Progress(sent, total).percentage
    assert 0 <= percentage <= 100
    if total and sent < total:
        assert percentage < 100
    if total and sent >= total:
        assert percentage == 100


@given(st.integers(1, 1 << 50), st.lists(st.integers(0, 1 << 50), min_size=2))
def test_percentage_never_falls_as_more_is_sent(total: int, sent: list[int]) -> None:
    percentages = [Progress(each, total).percentage for each in sorted(sent)]
    assert percentages == sorted(percentages)


@pytest.mark.parametrize(("sent", "total", "percentage"), [(0, 0, 0), (5, 0, 0), (999, 1000, 99), (1, 3, 33)])
def test_a_percentage_is_rounded_down(sent: int, total: int, percentage: int) -> None:
    assert Progress(sent, total).percentage == percentage


@given(st.sampled_from(State), st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_ticket_is_at_100_percent_only_once_the_cloud_has_answered(state: State, sent: int, total: int) -> None:
    made = ticket(state=state, progress=Progress(sent, total))
    # Only a published ticket can be withdrawn.
    answered = state in (State.PUBLISHED, State.WITHDRAWING, State.WITHDRAWN)
    assert made.percentage == (made.progress.percentage if answered else min(made.progress.percentage, 99))
    assert answered or not total or made.bar_bytes < total


@given(st.integers(1, 1 << 50), st.lists(st.integers(0, 1 << 50), min_size=2))
def test_bar_never_falls_as_more_is_sent(total: int, sent: list[int]) -> None:
    bars = [ticket(state=State.PUBLISHING, progress=Progress(each, total)).bar_bytes for each in sorted(sent)]
    assert bars == sorted(bars)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Queued"),
        ({"error": "Glance is away", "attempt": 2}, "Waiting to try again (attempt 3): Glance is away"),
        ({"state": State.PUBLISHED, "error": "an old one"}, "Published"),
        ({"state": State.PUBLISHED, "location": "RegionOne"}, "Published in RegionOne"),
        ({"state": State.PUBLISHED, "error": "not withdrawn", "withdrawal": 1.0}, "Published; not withdrawn"),
        ({"state": State.WITHDRAWING}, "Withdrawing: removing the image from the cloud"),
        ({"state": State.WITHDRAWING, "error": "away"}, "Withdrawing; will be tried again: away"),
        ({"state": State.WITHDRAWN}, "Withdrawn: the image is no longer in the cloud"),
        ({"state": State.PUBLISHED, "location": "https://glance.example.com"}, "Published"),
        (
            {
                "state": State.PUBLISHING,
                "phase": Phase.UPLOADING,
                "progress": Progress(3 * MIB, 4 * MIB),
                "location": "RegionOne",
            },
            "Uploading 3 of 4 MiB to RegionOne",
        ),
        ({"state": State.FAILED, "error": "quota"}, "Failed"),
        ({"state": State.CANCELLED}, "Cancelled"),
        ({"state": State.CANCELLING}, "Cancelling: removing what was uploaded"),
        ({"state": State.PUBLISHING, "phase": Phase.PREPARING}, "Preparing"),
        ({"state": State.PUBLISHING, "phase": Phase.WAITING}, "Preparing"),
        ({"state": State.PUBLISHING, "phase": Phase.AUTHENTICATING}, "Signing in to the cloud"),
        (
            {"state": State.PUBLISHING, "phase": Phase.UPLOADING, "progress": Progress(3 * MIB + 5, 4 * MIB + 1)},
            "Uploading 3 of 4 MiB",
        ),
        ({"state": State.PUBLISHING, "phase": Phase.VERIFYING}, "Verifying checksum"),
        ({"state": State.PUBLISHING, "phase": Phase.VERIFYING, "attempt": 1}, "Verifying checksum"),
        ({"state": State.PUBLISHING, "phase": Phase.VERIFYING, "attempt": 2}, "Verifying checksum (attempt 2)"),
        ({"state": State.PUBLISHING, "phase": Phase.FINISHING}, "Finishing: visibility and properties"),
    ],
)
def test_message_describes_state_and_phase(values: dict[str, Any], message: str) -> None:
    assert ticket(**values).message == message


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_message_and_knows_whether_it_is_final(state: State) -> None:
    assert ticket(state=state).message
    assert ticket(state=state).final is (state in FINAL)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ({"phase": Phase.UPLOADING, "started": 100.0, "progress": Progress(250, 1000)}, 140.0),
        ({"phase": Phase.UPLOADING, "started": 100.0, "progress": Progress(1000, 1000)}, 110.0),
        ({"phase": Phase.UPLOADING, "started": 100.0, "progress": Progress(0, 1000)}, None),
        ({"phase": Phase.UPLOADING, "started": None, "progress": Progress(250, 1000)}, None),
        ({"phase": Phase.UPLOADING, "started": 100.0, "progressed": None, "progress": Progress(250, 1000)}, None),
        ({"phase": Phase.VERIFYING, "started": 100.0, "progress": Progress(250, 1000)}, None),
        # A waiting ticket keeps its last phase.
        (
            {"phase": Phase.UPLOADING, "state": State.QUEUED, "started": 100.0, "progress": Progress(250, 1000)},
            None,
        ),
    ],
)
def test_end_of_the_upload_is_estimated(values: dict[str, Any], ends: float | None) -> None:
    assert ticket(**{"state": State.PUBLISHING, "progressed": 110.0} | values).upload_ends == ends


def test_progress_counts_as_a_change() -> None:
    assert ticket(modified=5.0).changed == 5.0
    assert ticket(modified=5.0, progressed=7.0).changed == 7.0
    assert ticket(modified=9.0, progressed=7.0).changed == 9.0


def test_repr_contains_no_secrets() -> None:
    assert "hunter2" not in repr(Account("openstack", {}, {"password": "hunter2"}))
    assert "hunter2" not in repr(ticket(account={"x": "hunter2"}, sealed_secrets=b"hunter2", target={"x": "hunter2"}))


def test_a_ticket_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ticket().attempt = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("cloud_id", "shown_id", "shown"),
    [(None, None, None), (None, "ami-1", None), ("handle", None, "handle"), ("handle", "ami-1", "ami-1")],
)
def test_people_see_the_clouds_own_id(cloud_id: str | None, shown_id: str | None, shown: str | None) -> None:
    assert ticket(cloud_id=cloud_id, shown_id=shown_id).id_in_cloud == shown
