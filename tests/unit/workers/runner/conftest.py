"""A runner, a ticket and a scripted cloud. No test may log the cloud's password."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import workers.cloud_work
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import Ticket
from publisher.core.vault import Vault
from publisher.services.wakeups import Wakeups
from publisher.store import Store
from tests.records import add_image, add_ticket
from tests.unit.workers.runner.scripted_cloud import CONTENT, SECRET, Script, Waker, scripted
from workers.drain import Drain
from workers.runner import Runner


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    cloud = scripted(script)
    monkeypatch.setattr(workers.cloud_work, "plugin", lambda platform: cloud)
    return script


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path,
        progress_seconds=0.02,
        lease_seconds=30.0,
        lease_renew_seconds=5.0,
        attempts_max=3,
        clean_up_attempts=2,
        retry_first_seconds=8.0,
        retry_longest_seconds=60.0,
    )


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault.from_file(settings.key_file)


@pytest.fixture
def image(sqlite_store: Store, settings: Settings) -> Image:
    return add_image(sqlite_store, settings.images, CONTENT)


@pytest.fixture
def ticket(sqlite_store: Store, vault: Vault, image: Image) -> Ticket:
    return add_ticket(
        sqlite_store, image_id=image.id, image_size=image.size, sealed_secrets=vault.seal({"password": SECRET})
    )


@pytest.fixture
def drain() -> Drain:
    return Drain(60)


@pytest.fixture
def waker() -> Waker:
    return Waker()


@pytest.fixture
def runner(sqlite_store: Store, vault: Vault, settings: Settings, drain: Drain, waker: Waker) -> Runner:
    return Runner(sqlite_store, vault, settings, worker="a", drain=drain, wakeups=Wakeups(sqlite_store, waker))


@pytest.fixture(autouse=True)
def _no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text
