"""A short chaos run keeps the promise, and the verdict detects a broken one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from publisher.core.ticket import Phase, Progress, State, Ticket
from publisher.devcloud.cloud import DevCloud
from tests.chaos.bursts import CALLERS_LEAST, Burst, Kill, Struck, Wave, group_words, struck, waves
from tests.chaos.callers import Order, orders
from tests.chaos.faults import Done
from tests.chaos.run import Plan, chaos
from tests.chaos.schedule import KINDS, Fault, schedule
from tests.chaos.verdict import Registered, judge, lineages, told_otherwise, unexpected
from tests.chaos.watch import recoveries
from tests.clouds import Glance

CONTENT = b"an image"
RIGHT = Registered(len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), hashlib.sha512(CONTENT).hexdigest())
TICKET = Ticket(
    id=1, uid="u-1", owner="root", appliance_id=4, image_id=7, platform="openstack", account={}, sealed_secrets=None,
    target={}, name="chaos-1", state=State.PUBLISHED, phase=Phase.FINISHING, progress=Progress(8, 8), attempt=1,
    cloud_id="c-1", location=None, error=None, error_detail=None, created=0.0, modified=0.0, started=None,
    finished=None, not_before=0.0, lease_token=1, worker=None,
)  # fmt: skip
IMAGE = {
    "id": "c-1", "status": "active", "size": RIGHT.size, "os_hash_value": RIGHT.sha512,
    "publisher_sha256": RIGHT.sha256, "publisher_ticket": "u-1",
}  # fmt: skip


@pytest.fixture
def emptied(devcloud: DevCloud) -> Iterator[DevCloud]:
    yield devcloud
    Glance(devcloud).empty()


@pytest.mark.real
@pytest.mark.own_cloud
def test_the_promise_is_kept_in_a_short_run(tmp_path: Path, emptied: DevCloud) -> None:
    said: list[str] = []
    assert chaos(Plan(seed=7, minutes=0.35, store="sqlite", broker="embedded"), tmp_path, emptied, said.append), (
        "\n".join(said)
    )


def test_the_same_seed_gives_the_same_faults() -> None:
    def of(seed: int) -> list[Fault]:
        return schedule(random.Random(seed), seconds=60, count=40, kinds=list(KINDS))  # noqa: S311

    assert of(1) == of(1)
    assert of(1) != of(2)
    assert {fault.kind for fault in of(1)[: len(KINDS)]} == set(KINDS)
    assert [fault.at for fault in of(1)] == sorted(fault.at for fault in of(1))


def test_verdict_accepts_a_kept_promise() -> None:
    failed = replace(TICKET, id=2, uid="u-2", state=State.FAILED)
    assert judge([TICKET, failed], [1, 2], [IMAGE], {7: RIGHT}, lambda _: CONTENT).kept


@pytest.mark.parametrize(
    ("broken", "changes", "images", "content"),
    [
        ("lost", {"id": 3}, [IMAGE], CONTENT),
        ("lost", {}, [], CONTENT),
        ("lost", {}, [IMAGE], b"other bytes"),
        ("lost", {}, [IMAGE | {"status": "saving"}], CONTENT),
        ("lost", {}, [IMAGE | {"id": "c-2"}], CONTENT),
        ("lost", {}, [IMAGE | {"os_hash_value": "0"}], CONTENT),
        ("lost", {}, [IMAGE | {"publisher_sha256": "0"}], CONTENT),
        ("doubled", {}, [IMAGE, IMAGE | {"id": "c-2"}], CONTENT),
        ("leaked", {}, [IMAGE, IMAGE | {"id": "c-2", "publisher_ticket": "u-9"}], CONTENT),
        ("leaked", {"state": State.CANCELLED}, [IMAGE], CONTENT),
        ("leaked", {"state": State.WITHDRAWN}, [IMAGE], CONTENT),
        ("stuck", {"state": State.WITHDRAWING}, [IMAGE], CONTENT),
        ("leaked", {"state": State.FAILED}, [IMAGE | {"status": "queued"}], CONTENT),
        ("stuck", {"state": State.CANCELLING}, [], CONTENT),
        ("stuck", {"state": State.QUEUED}, [], CONTENT),
    ],
)
def test_verdict_says_how_a_promise_is_broken(
    broken: str, changes: dict[str, Any], images: list[dict[str, Any]], content: bytes
) -> None:
    verdict = judge([replace(TICKET, **changes)], [1], images, {7: RIGHT}, lambda _: content)
    assert {name for name in ("lost", "doubled", "leaked", "stuck") if getattr(verdict, name)} == {broken}
    assert not verdict.kept


@pytest.mark.parametrize(
    ("changes", "cancel", "right"),
    [
        ({}, False, True),
        ({}, True, True),
        ({"state": State.CANCELLED}, True, True),
        ({"state": State.CANCELLED}, False, False),
        ({"state": State.FAILED, "error": "no"}, False, False),
        ({"state": State.FAILED, "error": "cancelled, but not cleaned up"}, True, False),
        ({"image_id": 8, "state": State.FAILED, "error": "the sha512 is not the registered one"}, False, True),
        ({"image_id": 8}, False, False),
        ({"image_id": 8, "state": State.CANCELLED}, True, True),
    ],
)
def test_unexplained_outcomes_are_reported(changes: dict[str, Any], cancel: bool, right: bool) -> None:
    ticket = replace(TICKET, **changes)
    assert (unexpected([ticket], {1} if cancel else set(), 8) == []) is right


@pytest.mark.parametrize(
    ("changes", "asked", "right"),
    [
        ({"state": State.WITHDRAWN}, True, True),
        ({"state": State.CANCELLED}, True, True),
        ({}, True, False),
        ({"state": State.FAILED, "error": "no"}, True, False),
        ({"state": State.WITHDRAWN}, False, False),
        ({"state": State.WITHDRAWN, "expires": 60.0, "withdrawal": 60.5}, False, True),
        ({"state": State.WITHDRAWN, "expires": 60.0, "withdrawal": 59.5}, False, False),
        ({"expires": 60.0}, False, False),
        ({"lineage": "web", "keep": 2, "state": State.WITHDRAWN, "withdrawal": 9.0}, False, True),
        ({"lineage": "web", "keep": 2, "state": State.FAILED, "error": "no"}, False, False),
    ],
)
def test_withdrawals_that_nobody_asked_for_are_reported(changes: dict[str, Any], asked: bool, right: bool) -> None:
    ticket = replace(TICKET, **changes)
    assert (unexpected([ticket], set(), 8, {1} if asked else set()) == []) is right


def _of_a_lineage(id: int, state: State, withdrawal: float | None = None) -> Ticket:
    return replace(TICKET, id=id, uid=f"u-{id}", lineage="web", keep=2, state=state, withdrawal=withdrawal)


def test_lineage_ends_with_its_newest_images() -> None:
    oldest, *newer = _of_a_lineage(1, State.WITHDRAWN, 30.0), *(_of_a_lineage(id, State.PUBLISHED) for id in (2, 3))
    published = {1: 10.0, 2: 30.0, 3: 20.0}
    cancelled = _of_a_lineage(4, State.CANCELLED)
    assert lineages([oldest, *newer, cancelled, TICKET], published | {TICKET.id: 5.0}) == []
    kept = replace(oldest, state=State.PUBLISHED, withdrawal=None)
    assert lineages([kept, *newer], published) == ["lineage web has the images of tickets [1, 2, 3], and not [2, 3]"]
    assert lineages([oldest, newer[0], replace(newer[1], state=State.WITHDRAWN)], published) == [
        "lineage web has the images of tickets [2], and not [2, 3]"
    ]


def test_image_that_is_withdrawn_before_newer_ones_are_published_is_reported() -> None:
    tickets = [_of_a_lineage(1, State.WITHDRAWN, 25.0), *(_of_a_lineage(id, State.PUBLISHED) for id in (2, 3))]
    assert lineages(tickets, {1: 10.0, 2: 20.0, 3: 30.0}) == ["ticket 1 was withdrawn when web had 1 newer images"]


def test_same_seed_gives_the_same_callers() -> None:
    def of(seed: int) -> list[Order]:
        began = datetime(2026, 1, 1, tzinfo=UTC)
        rng = random.Random(seed)  # noqa: S311
        return orders(rng, seconds=600, count=200, image_ids=[1, 2, 3], broken_id=4, prefix="chaos", began=began)

    assert of(1) == of(1)
    assert of(1) != of(2)
    assert sum(order.withdrawal is not None for order in of(1)) > 20
    assert sum(order.expires is not None for order in of(1)) > 10
    assert {order.elements["keep"] for order in of(1) if order.lineage} == {2}
    assert {order.image_id for order in of(1) if order.withdrawal or order.lineage or order.expires} == {1, 2, 3}


def test_second_ticket_for_one_order_is_reported() -> None:
    (words,) = unexpected([TICKET, replace(TICKET, id=2, uid="u-2")], set(), 8)
    assert words == "2 tickets for the one order chaos-1"


@pytest.mark.parametrize(
    ("state", "told", "right"),
    [
        (State.PUBLISHED, (True, False, False, True), True),
        (State.FAILED, (False, True, False, False), True),
        (State.CANCELLED, (False, False, True, False), True),
        (State.WITHDRAWN, (True, False, False, False), True),
        (State.PUBLISHED, (False, False, False, False), False),
        (State.PUBLISHED, (True, False, False, False), False),
        (State.FAILED, (True, False, False, False), False),
        (State.CANCELLED, (False, True, True, False), False),
        (State.WITHDRAWN, (True, False, False, True), False),
        (State.WITHDRAWN, (False, False, True, False), False),
    ],
)
def test_status_for_callers_must_agree_with_the_ticket(
    state: State, told: tuple[bool, bool, bool, bool], right: bool
) -> None:
    status = dict(zip(("complete", "error", "cancelled", "published"), told, strict=True))
    assert (told_otherwise(replace(TICKET, state=state), status) is None) is right


def test_recovery_lasts_until_an_affected_ticket_moves() -> None:
    done = [
        Done(Fault(0, "glance_killed", 1, 0), began=10, ended=12, affected=frozenset({1, 2})),
        Done(Fault(0, "worker_killed", 1, 0), began=10, ended=13, affected=frozenset({2})),
        Done(Fault(0, "disk_full", 1, 0), began=10, ended=13, affected=frozenset()),
    ]
    moves = [(11.0, 1), (12.5, 3), (14.0, 1), (18.0, 2)]
    assert recoveries(done, moves) == [(5.0, "worker_killed"), (2.0, "glance_killed")]
    # Ticket 1 was published during the first fault, and withdrawn later.
    assert recoveries(done, moves, [(11.0, 1), (14.0, 1)]) == [(6.0, "glance_killed"), (5.0, "worker_killed")]


def test_every_caller_of_a_burst_has_its_own_key() -> None:
    def of(seed: int) -> list[Wave]:
        return waves(random.Random(seed), seconds=600, image_id=7, prefix="chaos")  # noqa: S311

    assert of(1) == of(1)
    assert of(1) != of(2)
    names = [order.name for wave in of(1) for order in wave.orders]
    assert len(set(names)) == len(names)
    assert min(len(wave.orders) for wave in of(1)) >= CALLERS_LEAST
    assert [wave.at for wave in of(1)] == sorted(wave.at for wave in of(1))


def _burst(count: int) -> Burst:
    return Burst(3, Wave(0.0, 0, [Order(0.0, f"order-{each}", 7) for each in range(count)]), door=0)


def test_middle_of_a_burst_is_when_requests_are_sent_and_not_answered() -> None:
    burst = _burst(4)
    burst.note(sent="order-0")
    burst.note(sent="order-1")
    burst.note(sent="order-2")
    burst.note(answered="order-0")
    burst.note(lost="order-1")
    assert burst.await_middle(sent=3, seconds=0.0) == {"order-2"}


def test_burst_without_an_intake_has_no_middle() -> None:
    burst = _burst(2)
    for order in burst.wave.orders:
        burst.note(lost=order.name)
    assert burst.await_middle(sent=2, seconds=60.0) == frozenset()


def test_kill_in_a_burst_is_reported_with_what_was_committed() -> None:
    burst = _burst(5)
    for order in burst.wave.orders:
        burst.note(sent=order.name)
    burst.kill = Kill(100.0, frozenset(f"order-{each}" for each in range(1, 5)))
    # The answer to order 4 had left the intake when it was killed.
    burst.note(answered="order-4")
    for each in range(1, 4):
        burst.note(lost=f"order-{each}")
    created = {0: 99.0, 1: 99.5, 2: 99.5, 3: 101.0, 4: 99.5}
    tickets = [replace(TICKET, id=each, name=f"order-{each}", created=at) for each, at in created.items()]
    assert struck([burst, _burst(5)], tickets) == [Struck(3, requests=5, unanswered=3, committed=2, groups=[3])]
    assert group_words(tickets) == "tickets committed alone: 2; groups committed in one transaction: 1 of 3"


def test_kill_after_the_last_answer_is_not_reported() -> None:
    burst = _burst(1)
    burst.kill = Kill(100.0, frozenset({"order-0"}))
    burst.note(answered="order-0")
    assert struck([burst], [replace(TICKET, name="order-0")]) == []
