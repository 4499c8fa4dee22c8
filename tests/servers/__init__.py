"""Real servers for the tests, each on ports and in a directory of its own."""

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """A real server that is absent skips a test on a laptop, and fails it in CI."""
    words = (
        f"{what} is not installed here; tests/install_servers.sh and `pip install -e .[dev]` install what is missing"
    )
    if "CI" in os.environ:
        pytest.fail(words, pytrace=False)
    pytest.skip(words)
