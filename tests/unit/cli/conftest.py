"""An installation with a user, for the `publisher` command."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import typer.testing

from publisher.core.settings import Settings
from publisher.store import Store
from tests.command import Cli


@pytest.fixture(scope="session", autouse=True)
def _commands_are_made_once() -> Iterator[None]:
    """Typer's runner would build all commands again for each call, which takes longer than most calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def cli(bare_cli: Cli, sqlite_url: str) -> Cli:
    """The `publisher` command of an installation with a migrated database and the user root."""
    bare_cli.ok("users", "add", "root", "--admin", "--password-stdin", input="secret\n")
    return bare_cli


@pytest.fixture
def cli_store(cli: Cli) -> Iterator[Store]:
    """The store of that installation, opened as a worker opens it."""
    store = Store.open(Settings.from_environment())
    yield store
    store.close()
