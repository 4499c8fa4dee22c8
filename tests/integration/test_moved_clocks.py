"""Workers continue after a pause, and after their clocks are set while they work."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.core.ticket import Phase
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.integration.test_publish import assert_one_right_image
from tests.proxy import Proxy
from tests.records import current
from tests.servers import missing
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.stack import Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"
SLEEP = "import threading, time; time.sleep = lambda seconds: threading.Event().wait(seconds) and None"
"""libfaketime 0.9.10 breaks the sleep of Python 3.11, clock_nanosleep(2) until a time (TIMER_ABSTIME): EINVAL."""


class Clock:
    """The wall clock of processes. A test can set it while they run; its speed is right."""

    def __init__(self, directory: Path) -> None:
        if not shutil.which("faketime"):
            missing("faketime")
        directory.mkdir()
        self._file = directory / "offset"
        (directory / "sitecustomize.py").write_text(SLEEP)
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        self.environment = {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(directory),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.move(0)

    def move(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(16 * MIB))
    return file


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture(params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer, clock: Clock) -> Iterator[Stack]:
    settings = {}
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        settings = {"database_url": postgres.fresh()}
    with Stack.in_directory(tmp_path / "data", redis.url, workers=0, lease_seconds=20.0, **settings) as stack:
        stack.environment = clock.environment
        stack.add_worker()
        yield stack


def test_an_upload_ends_although_its_workers_clock_is_set(
    stack: Stack, clock: Clock, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    image = stack.add_image(file, id=7)
    ticket: dict[str, Any] = {}
    for seconds in (-3600, 3600, 2 * 86400):
        clock.move(0)
        with Proxy(devcloud.glance_url, bytes_per_second=4 * MIB) as slow:
            ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
            until(lambda: stack.status(ticket)["percentage"] >= 10, 60, stack._explain)  # noqa: B023  # it ends here
            clock.move(seconds)
            slow.bytes_per_second = None
            assert stack.wait(ticket, 120)["published"], seconds
        assert_one_right_image(glance, ticket, image)
        # No thread is left asleep: the next ticket is published, too.
        after = stack.publish(publish_body(devcloud, URI))
        assert stack.wait(after, 120)["published"], seconds
        assert current(stack.store, after["dbId"]).attempt == 1


def test_a_sign_in_ends_although_the_clock_is_set_back(
    stack: Stack, clock: Clock, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    image = stack.add_image(file, id=7)
    with Proxy(devcloud.keystone_url) as slow:
        slow.stall()
        ticket = stack.publish(publish_body(devcloud, URI, account__keystoneUrl=slow.url))
        until(lambda: slow.waiting_for_new, 60, stack._explain)
        assert current(stack.store, ticket["dbId"]).phase is Phase.AUTHENTICATING
        clock.move(-3600)
        slow.resume()
        assert stack.wait(ticket, 120)["published"]
    assert_one_right_image(glance, ticket, image)


def test_a_worker_paused_past_its_lease_continues_at_once(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with (
        Stack.in_directory(tmp_path / "data", redis.url, lease_seconds=20.0, reconcile_seconds=2.0) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=MIB) as slow,
    ):
        image = stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(ticket)["percentage"] >= 10, 60, stack._explain)
        (worker,) = stack.workers
        stack.pause(worker)
        time.sleep(21)  # the test needs a pause that is longer than the lease
        worker.signal(signal.SIGCONT)
        until(lambda: current(stack.store, ticket["dbId"]).attempt == 2, 5, stack._explain)
        slow.bytes_per_second = None
        assert stack.wait(ticket, 120)["published"]
        assert_one_right_image(glance, ticket, image)
