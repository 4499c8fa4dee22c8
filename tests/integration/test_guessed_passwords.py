"""A small run of the sign-in benchmark: known callers get answers, while most who guess passwords get 429."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import signins


@pytest.fixture(autouse=True)
def quick_hashes() -> None:
    """Keep the slow password hashes: this test is about their cost."""


@pytest.mark.real
def test_known_callers_are_answered_while_others_guess_passwords(tmp_path: Path) -> None:
    result = signins.run(tmp_path, callers=40, seconds=5.0, addresses=20)

    assert set(result.polls.statuses) == set(result.health.statuses) == set(result.long_polls.statuses) == {200}
    assert set(result.guesses) == {401, 429}
    # Only two passwords are hashed at a time, so that most of so many callers get 429.
    assert result.guesses[429] > result.guesses[401]
