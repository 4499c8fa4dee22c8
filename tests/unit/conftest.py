"""Fixtures for the unit tests of several packages: an intake in this process, and the `publisher` command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.outbound import policy
from publisher.store import Store
from publisher.store.engine import open_engine
from tests.command import Cli
from tests.conftest import quick_hashing
from tests.service import PASSWORDS, SECRET, Service, basic, fill, serving


@pytest.fixture(autouse=True)
def no_kept_lookups() -> None:
    """Let no test find the hosts that another one has looked up."""
    policy._kept.clear()


@pytest.fixture(scope="session")
def filled_template(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the users and images. Tests use copies of it."""
    file = tmp_path_factory.mktemp("intake") / "filled.db"
    shutil.copyfile(sqlite_template, file)
    store = Store(open_engine(f"sqlite:///{file}"))
    with quick_hashing():
        fill(store)
    store.close()
    return file


@pytest.fixture
def start(filled_template: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts an intake for this test only, with the given settings."""
    started: list[Any] = []

    def start_one(**settings: Any) -> Service:
        directory = tmp_path / f"intake-{len(started)}"
        directory.mkdir()
        shutil.copyfile(filled_template, directory / "publisher.db")
        context = serving(directory, **settings)
        service = context.__enter__()
        started.append(context)
        return service

    yield start_one
    for context in reversed(started):
        context.__exit__(None, None, None)


@pytest.fixture
def fresh(start: Callable[..., Service]) -> Service:
    """An intake for this test only."""
    return start()


_OVER_HTTP = ("tests.unit.intake.test_http_", "tests.unit.console.test_http_")


@pytest.fixture(autouse=True)
def no_secrets_in_logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check after each HTTP test that no log shows a secret."""
    if not request.module.__name__.startswith(_OVER_HTTP):
        yield
        return
    caplog: pytest.LogCaptureFixture = request.getfixturevalue("caplog")
    caplog.set_level("DEBUG")
    yield
    for when in ("setup", "call"):
        for record in caplog.get_records(when):
            shown = record.getMessage() + (caplog.handler.format(record) if record.exc_info else "")
            for secret in (SECRET, *PASSWORDS.values(), basic("root", PASSWORDS["root"]).split()[1]):
                assert secret not in shown, f"a log shows a secret: {record.name}: {record.getMessage()}"


@pytest.fixture
def bare_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The `publisher` command, without a database."""
    for variable in os.environ:
        if variable.startswith(("PUBLISHER_", "OS_", "FLOWER_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("PUBLISHER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PUBLISHER_SEND_TIMEOUT_SECONDS", "0.2")
    return Cli(tmp_path)
