"""What a check found."""

from __future__ import annotations

import json

import pytest

from publisher.core.cloud_check import PLACES_MAX, CheckResult, Explored, Place
from publisher.core.errors import Reason


def test_places_are_sorted_by_name_and_listed_once() -> None:
    given = [Place("2", "b"), Place("1", "a"), Place("2", "b"), Place("0", "b")]
    assert Explored.of(projects=given).projects == (Place("1", "a"), Place("0", "b"), Place("2", "b"))


@pytest.mark.parametrize("text", ["", "x" * 256, "line\nbreak", "\x1b[2J"])
def test_a_place_that_cannot_be_shown_is_left_out(text: str) -> None:
    assert Explored.of(regions=[Place(text, "a"), Place("1", text)]) == Explored()


def test_a_cloud_that_lists_too_many_is_cut_short() -> None:
    found = Explored.of(networks=[Place(str(number), "n") for number in range(10 * PLACES_MAX)])
    assert len(found.networks) == PLACES_MAX


@pytest.mark.parametrize(
    "result",
    [
        CheckResult(True, "works"),
        CheckResult(True, "works", explored=Explored.of(projects=[Place("1", "å")])),
        CheckResult(False, "wrong", "credAccount.login", Reason.CREDENTIALS, transient=True),
    ],
)
def test_a_result_survives_json(result: CheckResult) -> None:
    assert CheckResult.from_json(json.loads(json.dumps(result.as_json()))) == result
