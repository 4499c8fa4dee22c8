"""An intake that is killed while it creates tickets loses none and makes none twice."""

from __future__ import annotations

import http.client
import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from publisher.cli import programs
from publisher.core.settings import Settings
from publisher.store import Store
from tests.patience import PATIENCE
from tests.records import OWNER, add_image
from tests.servers.dying_intake import AFTER_COMMIT, BEFORE_COMMIT, DIES, HOLDING, TOGETHER
from tests.servers.process import Server, free_port, listens

PASSWORD = "a-password-of-tests"
KEYS = [f"key {number}" for number in range(1 + TOGETHER)]
SERVICE = "publisher.intake.server"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path, database_url=database_url, intake_port=free_port())
    store = Store.open(settings)
    store.users.add(OWNER, PASSWORD, administrator=True)
    add_image(store, settings.images, b"content")
    store.close()
    return settings


@contextmanager
def intake(settings: Settings, module: str = SERVICE, dies: str = "") -> Iterator[Server]:
    server = Server(
        [module if part == SERVICE else part for part in programs.intake(settings)],
        settings.data_dir / "intake.log",
        ready=lambda: listens(settings.intake_port),
        environment=os.environ | settings.environment() | {DIES: dies},
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()


def publish(settings: Settings, key: str) -> str | None:
    """Send a publish request. Return the ticket's address, or None if no answer comes."""
    account = {"targetPlatform": {"name": "memory"}, "login": "me", "password": "hunter2"}
    body = {"imageUri": f"users/{OWNER}/appliances/4/images/1", "credAccount": account, "displayName": key}
    headers = {
        "Authorization": "Basic " + b64encode(f"{OWNER}:{PASSWORD}".encode()).decode(),
        "Content-Type": "application/json",
        "Idempotency-Key": key,
    }
    connection = http.client.HTTPConnection("127.0.0.1", settings.intake_port, timeout=60 * PATIENCE)
    try:
        connection.request("POST", f"/api/users/{OWNER}/appliances/4/pimages", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    assert answer.status == 201, text
    return answer.headers["location"]


def stored(settings: Settings) -> dict[str, int]:
    """Return the tickets in the store, by their names."""
    store = Store.open(settings)
    try:
        found = store.tickets.list()
    finally:
        store.close()
    assert len({each.name for each in found}) == len(found)
    return {each.name: each.id for each in found}


@pytest.mark.real
@pytest.mark.parametrize("dies", [BEFORE_COMMIT, AFTER_COMMIT])
def test_a_repeated_request_gets_the_ticket_of_the_one_that_was_not_answered(settings: Settings, dies: str) -> None:
    with (
        intake(settings, "tests.servers.dying_intake", dies) as server,
        ThreadPoolExecutor(len(KEYS)) as pool,
    ):
        first = pool.submit(publish, settings, KEYS[0])
        while not (settings.data_dir / HOLDING).exists():
            assert not first.done()
            time.sleep(0.01)
        others = list(pool.map(lambda key: publish(settings, key), KEYS[1:]))
        answers = [first.result(60 * PATIENCE), *others]
        server.wait(60)
    before = stored(settings)
    assert answers.count(None) >= TOGETHER
    assert len(before) == (1 if dies == BEFORE_COMMIT else len(KEYS)), "all of a transaction or none"
    with intake(settings):
        again = [publish(settings, key) for key in KEYS]
    after = stored(settings)
    assert sorted(after) == KEYS
    assert before.items() <= after.items(), "what was committed is not created again"
    assert [str(each).rsplit("/", 1)[1] for each in again] == [str(after[key]) for key in KEYS]
    assert all(first in (None, second) for first, second in zip(answers, again, strict=True))
