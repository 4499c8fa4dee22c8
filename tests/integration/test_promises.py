"""The service keeps its promised times with its default settings, against a real Glance.

In `make test` the images are small and the leases short. `make promises` runs the same at full size: 1 GiB, uploads of
a minute, the default lease.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from publisher.core.settings import Settings
from publisher.core.ticket import State, Ticket
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.integration.test_publish import assert_one_right_image
from tests.patience import PATIENCE
from tests.proxy import Proxy
from tests.servers.impatient_worker import VISIBILITY_SECONDS
from tests.servers.networks import network, networks_allowed
from tests.servers.rabbitmq import rabbitmq_server
from tests.servers.redis import redis_server
from tests.servers.tinyproxy import tinyproxy
from tests.stack import Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
URI = "users/root/appliances/4/images/7"
DEFAULTS = Settings()


@dataclass(frozen=True)
class Scale:
    image_bytes: int
    lease_seconds: float
    upload_seconds: float
    outage_seconds: float


SMALL = Scale(48 * MIB, lease_seconds=4.0, upload_seconds=15.0, outage_seconds=13.0)
FULL = Scale(1 << 30, lease_seconds=DEFAULTS.lease_seconds, upload_seconds=60.0, outage_seconds=60.0)
SCALE = FULL if os.environ.get("FULL") else SMALL
LIMIT = 1 if SCALE is FULL else PATIENCE
"""`make promises` measures; the tests must pass on any machine."""
RATE = SCALE.image_bytes / SCALE.upload_seconds


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("images") / "image.raw"
    with file.open("wb") as into:
        for _ in range(SCALE.image_bytes // MIB):
            into.write(os.urandom(MIB))
    yield file
    file.unlink()


def stack_of(directory: Path, broker_url: str, *, workers: int = 1) -> Stack:
    settings = {
        "lease_seconds": SCALE.lease_seconds,
        "lease_renew_seconds": SCALE.lease_seconds / 4,
        "reconcile_seconds": DEFAULTS.reconcile_seconds,
        "progress_seconds": DEFAULTS.progress_seconds,
        "retry_first_seconds": DEFAULTS.retry_first_seconds,
    }
    return Stack.in_directory(directory, broker_url, workers=workers, **settings)


def ticket_of(stack: Stack, id: int) -> Ticket:
    found = stack.store.tickets.get(id)
    assert found is not None
    return found


def publish_half(stack: Stack, devcloud: DevCloud, through: Proxy) -> dict[str, Any]:
    """Publish, and return the ticket when half of its image is uploaded."""
    ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=through.url))
    until(lambda: stack.status(ticket)["percentage"] >= 50, SCALE.upload_seconds * 2 + 30)
    return ticket


def test_a_ticket_accepted_without_a_broker_is_claimed_soon_after_its_return(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with redis_server() as redis, stack_of(tmp_path / "data", redis.url) as stack:
        image = stack.add_image(file, id=7)
        redis.kill()
        down = time.monotonic()
        until(lambda: b"onnection to broker lost" in stack.workers[0].log.read_bytes(), 10)
        asked = time.monotonic()
        ticket = stack.publish(publish_body(devcloud, URI))
        answered_seconds = time.monotonic() - asked
        # The longer the broker is away, the more rarely Celery would try to connect.
        until(lambda: time.monotonic() - down > SCALE.outage_seconds, SCALE.outage_seconds + 1)
        redis.start()
        back = time.monotonic()
        until(lambda: ticket_of(stack, ticket["dbId"]).state is not State.QUEUED, 30)
        taken_up_seconds = time.monotonic() - back
        print(f"answered after {answered_seconds:.2f} s; taken up {taken_up_seconds:.2f} s after Redis was back")
        assert answered_seconds < 1 * LIMIT
        assert taken_up_seconds < 5 * LIMIT
        assert stack.wait(ticket, 120)["published"]
        assert_one_right_image(glance, ticket, image)


def test_a_ticket_of_a_killed_worker_is_claimed_again_soon_after_its_lease(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with (
        redis_server() as redis,
        stack_of(tmp_path / "data", redis.url, workers=2) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=RATE) as slow,
    ):
        image = stack.add_image(file, id=7)
        ticket = publish_half(stack, devcloud, slow)
        first = ticket_of(stack, ticket["dbId"])
        next(each for each in stack.workers if str(each.process.pid) in (first.worker or "")).kill()
        killed = time.monotonic()
        slow.bytes_per_second = None
        until(lambda: ticket_of(stack, ticket["dbId"]).attempt == 2, SCALE.lease_seconds + 30)
        followed_seconds = time.monotonic() - killed
        print(f"followed after {followed_seconds:.1f} s; the lease is {SCALE.lease_seconds:.0f} s")
        assert followed_seconds < SCALE.lease_seconds + 5 * LIMIT
        assert stack.wait(ticket, 120)["published"]
        assert ticket_of(stack, ticket["dbId"]).worker != first.worker
        assert_one_right_image(glance, ticket, image)


def test_a_worker_paused_past_its_lease_stops_its_upload_and_writes_nothing(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with (
        redis_server() as redis,
        stack_of(tmp_path / "data", redis.url) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=RATE) as slow,
    ):
        image = stack.add_image(file, id=7)
        ticket = publish_half(stack, devcloud, slow)
        paused = stack.workers[0]
        stack.pause(paused)
        token = ticket_of(stack, ticket["dbId"]).lease_token
        stack.add_worker()
        until(lambda: ticket_of(stack, ticket["dbId"]).lease_token > token, SCALE.lease_seconds + 30)
        slow.bytes_per_second = None
        assert stack.wait(ticket, 120)["published"]
        before = ticket_of(stack, ticket["dbId"]), stack.store.tickets.history(ticket["dbId"])
        paused.signal(signal.SIGCONT)
        until(lambda: b"the lease was lost" in paused.log.read_bytes(), 10)
        assert (ticket_of(stack, ticket["dbId"]), stack.store.tickets.history(ticket["dbId"])) == before
        assert paused.connections_to(slow.url) == [], "its upload has ended"
        assert_one_right_image(glance, ticket, image)


def test_a_cancel_stops_the_upload_and_cleans_the_cloud_before_it_ends(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with (
        redis_server() as redis,
        stack_of(tmp_path / "data", redis.url) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=RATE) as slow,
    ):
        stack.add_image(file, id=7)
        ticket = publish_half(stack, devcloud, slow)
        assert len(stack.workers[0].connections_to(slow.url)) == 1
        # Requests to Glance, also the deletion, now wait at the proxy, so that only the end of the upload counts.
        slow.stall()
        assert stack.call("DELETE", f"{ticket['uri']}/cancel").status == 204
        asked = time.monotonic()
        until(lambda: slow.waiting_for_new >= 1, 10)
        stopped_seconds = time.monotonic() - asked
        print(f"the transfer stopped {stopped_seconds:.2f} s after the cancel")
        assert stopped_seconds < 2 * LIMIT
        assert len(glance.images(ticket)) == 1
        assert not stack.status(ticket)["cancelled"], "not while something is there"
        slow.resume()
        until(lambda: stack.status(ticket)["cancelled"], 30, every=0.01)
        assert glance.images(ticket) == []


def test_a_worker_survives_an_upload_longer_than_rabbitmqs_timeout(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    """RabbitMQ closes the channel of a consumer that does not acknowledge, by default after half an hour."""
    with (
        rabbitmq_server(consumer_timeout_seconds=2) as rabbitmq,
        stack_of(tmp_path / "data", rabbitmq.url) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=RATE) as slow,
    ):
        image = stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        worker = stack.workers[0]
        until(lambda: b"PRECONDITION_FAILED" in worker.log.read_bytes(), SCALE.upload_seconds + 10)
        assert not stack.status(ticket)["complete"], "the upload was faster than the time-out: this proves nothing"
        until(lambda: worker.log.read_bytes().count(b"Connected to") == 2, 20)
        other = stack.publish(publish_body(devcloud, URI))
        assert stack.wait(other, SCALE.upload_seconds)["published"]
        assert stack.wait(ticket, SCALE.upload_seconds * 2 + 30)["published"]
        assert ticket_of(stack, ticket["dbId"]).attempt == 1
        assert worker.process.poll() is None
        for each in (ticket, other):
            assert_one_right_image(glance, each, image)


@pytest.mark.skipif(not networks_allowed(), reason="only root may create a network")
def test_a_worker_whose_only_way_out_is_a_proxy_publishes(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path
) -> None:
    with (
        redis_server() as redis,
        network() as inside,
        tinyproxy(host=inside.outside, login="worker", password="hunter2-of-the-proxy") as proxy,
        stack_of(tmp_path / "data", redis.socket_url, workers=0) as stack,
    ):
        image = stack.add_image(file, id=7)
        stack.workers_in = inside.command
        ticket = stack.publish(publish_body(devcloud, URI))
        stack.add_worker()
        # Without the proxy it reaches nothing.
        until(lambda: stack.status(ticket)["message"].startswith("Waiting to try again"), 60)
        assert ticket_of(stack, ticket["dbId"]).reason == "connection"
        assert proxy.asked_for == []
        stack.workers[0].kill()
        url = proxy.url.replace("://", "://worker:hunter2-of-the-proxy@")
        stack.settings = replace(stack.settings, http_proxy=url)
        stack.add_worker()
        assert stack.wait(ticket, SCALE.upload_seconds + 120)["published"]
        assert_one_right_image(glance, ticket, image)
        assert set(proxy.asked_for) == {urlsplit(each).netloc for each in (devcloud.keystone_url, devcloud.glance_url)}
        assert all("hunter2" not in log.read_text() for log in stack.logs.iterdir())


@pytest.mark.parametrize("acknowledging", ["", "late"])
def test_an_upload_longer_than_the_visibility_timeout_runs_once(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, file: Path, acknowledging: str
) -> None:
    """It holds with the service's settings, and with Celery's late acknowledgements, which do repeat the message."""
    with (
        redis_server() as redis,
        stack_of(tmp_path / "data", redis.url, workers=0) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=RATE) as slow,
    ):
        stack.environment = {"ACKNOWLEDGING": acknowledging}
        for _ in range(2):
            stack.add_worker(app="tests.servers.impatient_worker")
        image = stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        assert stack.wait(ticket, SCALE.upload_seconds * 2 + 30)["published"]
        ended = ticket_of(stack, ticket["dbId"])
        assert ended.started is not None
        assert ended.finished is not None
        received = sum(each.log.read_bytes().count(b" received") for each in stack.workers)
        print(f"an upload of {ended.finished - ended.started:.0f} s, {received} deliveries, attempt {ended.attempt}")
        assert ended.finished - ended.started > 2 * VISIBILITY_SECONDS
        assert (ended.attempt, ended.lease_token) == (1, 1)
        if acknowledging:
            assert received > 1, "the message was never given back: this proves nothing"
        assert_one_right_image(glance, ticket, image)
