"""The benchmark of wrong passwords, in small: known callers go on being answered, and those who guess are sent away."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import signins


@pytest.fixture(autouse=True)
def quick_hashes() -> None:
    """What a hash costs is what this is about."""


@pytest.mark.real
def test_while_others_guess(tmp_path: Path) -> None:
    result = signins.run(tmp_path, callers=40, seconds=5.0, addresses=20)

    assert set(result.polls.statuses) == set(result.health.statuses) == set(result.long_polls.statuses) == {200}
    assert set(result.guesses) == {401, 429}
    # Two at a time are hashed: of so many callers more are sent away than are let in.
    assert result.guesses[429] > result.guesses[401]
