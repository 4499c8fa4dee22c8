"""Fixtures of the golden files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from publisher.core.settings import Settings
from publisher.store import Store, engine
from tests.browser.pages import fill
from tests.conftest import quick_hashing
from tests.service import PASSWORDS, Service, serving
from tests.unit.console.conftest import Browser, browse


class Clock:
    """The store's clock. It stands still once all records are stored."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
        self.step_seconds = 7.0

    def now(self) -> float:
        self._now += self.step_seconds
        return self._now


@pytest.fixture(scope="module")
def service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An intake over a store with an example of everything that the console shows."""
    directory, clock = tmp_path_factory.mktemp("golden"), Clock()
    shutil.copyfile(sqlite_template, directory / "publisher.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "SteadyClock", lambda: clock)
        store = Store.open(Settings(data_dir=directory))
        with quick_hashing():
            store.users.add("root", PASSWORDS["root"], administrator=True)
        fill(store)
        store.close()
        clock.step_seconds = 0
        with serving(directory) as made:
            yield made


@pytest.fixture(scope="module")
def root(service: Service) -> Browser:
    """The browser of an administrator, signed in."""
    with quick_hashing():
        return browse(service, "root")
