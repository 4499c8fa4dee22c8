"""Real servers for the tests, each with its own ports and directory."""

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test on a laptop, or fail it in CI, because a real server is not installed."""
    words = (
        f"{what} is not installed here; tests/install_servers.sh and `pip install -e .[dev]` install what is missing"
    )
    if "CI" in os.environ:
        pytest.fail(words, pytrace=False)
    pytest.skip(words)
