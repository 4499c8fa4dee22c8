"""The whole path of a publication: a POST, the broker, a worker and a real Glance."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.core.image import Image
from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.proxy import Proxy
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import OwnRabbit, RabbitServer
from tests.servers.redis import RedisServer
from tests.servers.silent import silent_server
from tests.stack import Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20
DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "large.raw"
    with file.open("wb") as into:
        for _ in range(48):
            into.write(os.urandom(MIB))
    return file


@pytest.fixture
def stack(tmp_path: Path, redis: RedisServer) -> Iterator[Stack]:
    with Stack.in_directory(tmp_path / "data", redis.url) as running:
        yield running


@pytest.fixture
def image(stack: Stack, large_file: Path) -> Image:
    return stack.add_image(large_file, id=7, name="large")


URI = "users/root/appliances/4/images/7"


def assert_one_right_image(glance: Glance, ticket: dict[str, Any], image: Image) -> dict[str, Any]:
    """Check that Glance has one image of the ticket, active and with the registered bytes. Return it."""
    found = glance.images(ticket)
    assert len(found) == 1, found
    assert found[0]["status"] == "active"
    assert hashlib.sha256(glance.data(found[0]["id"])).hexdigest() == image.sha256
    return found[0]


def upload(stack: Stack, devcloud: DevCloud, through: Proxy, *, until_percentage: int) -> dict[str, Any]:
    """Publish, and return the ticket when its upload has reached `until_percentage`."""
    ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=through.url))
    until(lambda: stack.status(ticket)["percentage"] >= until_percentage, 30)
    return ticket


def test_an_image_is_published_and_its_caller_sees_the_progress(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=24 * MIB) as slow:
        ticket = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        assert ticket["status"]["message"] == "Queued"
        seen: list[dict[str, Any]] = []
        status = stack.wait(ticket, each=seen.append)
    assert (status["complete"], status["published"], status["error"], status["cancelled"]) == (True, True, False, False)
    assert status["percentage"] == 100
    assert status["bytesLoaded"] == status["bytesTotal"] == image.size
    percentages = [each["percentage"] for each in seen]
    assert percentages == sorted(percentages)
    assert len({each for each in percentages if 0 < each < 100}) >= 3, percentages
    assert any(each["message"].startswith("Uploading ") for each in seen)
    assert any("eta" in each for each in seen)

    found = assert_one_right_image(glance, ticket, image)
    published = stack.call("GET", ticket["uri"]).json
    assert published["cloudId"] == found["id"]
    assert (found["name"], found["disk_format"], found["container_format"], found["visibility"], found["min_disk"]) == (
        "An image of the tests", "raw", "bare", "private", 1,
    )  # fmt: skip
    assert found["publisher_image_uri"] == URI
    assert found["publisher_appliance_uri"] == "users/root/appliances/4"
    assert found["publisher_sha256"] == image.sha256
    assert found["publisher_ticket"] == stack.store.tickets.list()[0].uid
    assert stack.store.tickets.list()[0].sealed_secrets is None, "nobody needs them any more"


def test_the_example_of_the_manual_is_accepted_unchanged(stack: Stack, image: Image) -> None:
    body = (DATA / "publish-openstack-v2.xml").read_bytes()
    for accept in ("application/xml", "application/json"):
        answer = stack.call("POST", "users/root/appliances/4/pimages", body, accept=accept)
        assert answer.status == 201, answer.body
        assert answer.headers["Content-Type"] == accept
        assert answer.headers["Location"].endswith(f"/api/{URI}/pimages/{len(stack.store.tickets.list())}")
        assert b"password" not in answer.body.lower()
    # Its addresses are placeholders: the message names one while the worker tries again.
    ticket = stack.store.tickets.list()[0]
    until(lambda: "http://ip:5000" in (stack.store.tickets.get(ticket.id) or ticket).message, 20)


def test_a_ticket_of_a_killed_worker_is_published_by_another_one(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=40)
        stack.workers[0].kill()
        slow.bytes_per_second = None
        stack.add_worker()
        status = stack.wait(ticket)
    assert status["published"]
    assert_one_right_image(glance, ticket, image)
    assert stack.store.tickets.list()[0].attempt == 2


def test_a_worker_paused_past_its_lease_writes_nothing(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=30)
        stack.pause(stack.workers[0])
        token = stack.store.tickets.list()[0].lease_token
        stack.add_worker()
        until(lambda: stack.store.tickets.list()[0].lease_token > token, 30)
        stack.workers[0].signal(signal.SIGCONT)
        slow.bytes_per_second = None
        status = stack.wait(ticket)
    assert status["published"]
    assert_one_right_image(glance, ticket, image)
    words = [entry.words for entry in stack.store.tickets.history(ticket["dbId"])]
    assert sum(words.count(each) for each in ("Published",)) == 1
    until(lambda: b"the lease was lost" in stack.workers[0].log.read_bytes(), 10)


def test_a_cancel_during_an_upload_stops_it_and_leaves_nothing(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=30)
        assert stack.call("DELETE", f"{ticket['uri']}/cancel").status == 204
        status = stack.wait(ticket, 5)
    assert (status["cancelled"], status["complete"], status["error"]) == (True, False, False)
    assert glance.images(ticket) == []


def test_a_cancel_while_no_worker_runs_takes_effect_when_one_starts(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=40)
        stack.workers[0].kill()
        assert stack.call("DELETE", f"{ticket['uri']}/cancel").status == 204
        status = stack.status(ticket)
        assert (status["cancelled"], status["complete"], status["error"]) == (False, False, False)
        assert len(glance.images(ticket)) == 1
        stack.add_worker()
        until(lambda: stack.status(ticket)["cancelled"], 30)
    assert glance.images(ticket) == []


def test_a_cancel_stops_a_stalled_upload_within_two_seconds(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=30)
        slow.stall()
        assert stack.call("DELETE", f"{ticket['uri']}/cancel").status == 204
        # The transfer has ended when its worker begins to clean up, which waits for the cloud.
        until(lambda: slow.waiting_for_new >= 1, 2, lambda: "the upload goes on")
        slow.resume()
        status = stack.wait(ticket, 30)
    assert status["cancelled"]
    assert glance.images(ticket) == []


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_silent_keystone_delays_neither_a_cancel_nor_a_stop(
    stack: Stack, devcloud: DevCloud, image: Image, how: str
) -> None:
    with silent_server() as silent:
        ticket = stack.publish(publish_body(devcloud, URI, account__keystoneUrl=f"http://127.0.0.1:{silent}"))
        until(lambda: stack.status(ticket)["message"] == "Signing in to the cloud", 20)
        if how == "cancel":
            assert stack.call("DELETE", f"{ticket['uri']}/cancel").status == 204
            assert stack.wait(ticket, 2)["cancelled"]
        else:
            stack.workers[0].signal(signal.SIGQUIT)
            assert stack.workers[0].process.wait(5 * PATIENCE) == 0
            assert stack.status(ticket)["message"] == "Queued"


def test_an_upload_whose_connection_is_cut_is_tried_again(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=16 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=40)
        slow.cut()
        until(lambda: "try again" in stack.status(ticket)["message"] or slow.onward > image.size, 10)
        slow.bytes_per_second = None
        status = stack.wait(ticket)
    assert status["published"]
    assert_one_right_image(glance, ticket, image)


@pytest.mark.own_cloud
def test_a_glance_killed_during_an_upload_leaves_no_incomplete_image(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=16 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=40)
        devcloud.kill_glance()
        devcloud.start_glance()
        slow.bytes_per_second = None
        status = stack.wait(ticket)
    assert status["published"]
    assert_one_right_image(glance, ticket, image)


def test_a_worker_that_must_stop_at_once_hands_its_ticket_back(
    stack: Stack, devcloud: DevCloud, glance: Glance, image: Image
) -> None:
    with Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow:
        ticket = upload(stack, devcloud, slow, until_percentage=30)
        stack.workers[0].signal(signal.SIGQUIT)
        assert stack.workers[0].process.wait(10 * PATIENCE) == 0
        handed_back = stack.store.tickets.list()[0]
        assert (handed_back.state, handed_back.attempt) == (State.QUEUED, 0)
        slow.bytes_per_second = None
        stack.add_worker()
        assert stack.wait(ticket)["published"]
    assert_one_right_image(glance, ticket, image)


def test_a_ticket_accepted_without_a_broker_is_published_later(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, large_file: Path
) -> None:
    from tests.servers.redis import redis_server

    with redis_server() as redis, Stack.in_directory(tmp_path / "data", redis.url) as stack:
        image = stack.add_image(large_file, id=7)
        redis.kill()
        ticket = stack.publish(publish_body(devcloud, URI))
        assert stack.status(ticket)["message"] == "Queued"
        redis.start()
        assert stack.wait(ticket)["published"]
        assert_one_right_image(glance, ticket, image)


def test_a_worker_survives_a_redis_killed_during_its_upload(
    tmp_path: Path, devcloud: DevCloud, glance: Glance, large_file: Path
) -> None:
    from tests.servers.redis import redis_server

    with (
        redis_server() as redis,
        Stack.in_directory(tmp_path / "data", redis.url) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=8 * MIB) as slow,
    ):
        image = stack.add_image(large_file, id=7)
        first = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(first)["percentage"] >= 20, 30)
        redis.kill()
        until(lambda: b"onnection to broker lost" in stack.workers[0].log.read_bytes(), 10)
        redis.start()
        slow.bytes_per_second = None
        second = stack.publish(publish_body(devcloud, URI))
        for ticket in (first, second):
            assert stack.wait(ticket)["published"]
            assert_one_right_image(glance, ticket, image)
        assert [entry.attempt for entry in stack.store.tickets.list()] == [1, 1]
        assert stack.workers[0].process.poll() is None
        assert b"Unrecoverable" not in stack.workers[0].log.read_bytes()


def test_a_worker_gets_all_messages_after_rabbitmq_was_killed_during_uploads(
    tmp_path: Path, own_rabbitmq: OwnRabbit, devcloud: DevCloud, glance: Glance, large_file: Path
) -> None:
    small = tmp_path / "small.raw"
    small.write_bytes(os.urandom(MIB))
    with (
        Stack.in_directory(tmp_path / "data", own_rabbitmq.url, account_uploads_max=0) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=MIB) as slow,
    ):
        stack.add_image(large_file, id=7)
        stack.add_image(small, id=8)
        long = [stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url)) for _ in range(4)]
        until(lambda: all(stack.status(ticket)["percentage"] >= 2 for ticket in long), 30)
        own_rabbitmq.kill()
        own_rabbitmq.start()
        log = stack.workers[0].log
        until(lambda: log.read_bytes().count(b"Connected to amqp") == 2, 60)
        # Each of these tasks ends after the connection that brought its message is gone.
        slow.bytes_per_second = None
        for ticket in long:
            assert stack.wait(ticket)["published"]
        short = [stack.publish(publish_body(devcloud, URI.replace("7", "8"))) for _ in range(12)]
        for ticket in short:
            assert stack.wait(ticket, 20)["published"]
        assert {ticket.attempt for ticket in stack.store.tickets.list()} == {1}


def test_images_are_published_with_postgresql_and_rabbitmq(
    tmp_path: Path,
    postgres: PostgresServer,
    rabbitmq: RabbitServer,
    devcloud: DevCloud,
    glance: Glance,
    large_file: Path,
) -> None:
    settings = {"database_url": postgres.fresh()}
    with Stack.in_directory(tmp_path / "data", rabbitmq.url, workers=2, **settings) as stack:
        image = stack.add_image(large_file, id=7)
        tickets = [stack.publish(publish_body(devcloud, URI)) for _ in range(3)]
        for ticket in tickets:
            assert stack.wait(ticket)["published"]
            assert_one_right_image(glance, ticket, image)


def test_each_of_many_simultaneous_tickets_has_one_image(
    stack: Stack, devcloud: DevCloud, glance: Glance, tmp_path: Path
) -> None:
    file = tmp_path / "small.raw"
    file.write_bytes(os.urandom(MIB))
    image = stack.add_image(file, id=7)
    stack.add_worker()
    tickets: list[dict[str, Any]] = []
    callers = [
        threading.Thread(target=lambda: tickets.append(stack.publish(publish_body(devcloud, URI)))) for _ in range(12)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(tickets) == 12
    for ticket in tickets:
        assert stack.wait(ticket)["published"]
        assert_one_right_image(glance, ticket, image)
    listed = stack.call("GET", "users/root/appliances/4/pimages").json
    assert listed["total"] == 12
    statuses = stack.call("GET", "users/root/appliances/4/pimages/statuses").json
    assert all(each["published"] for each in statuses["statuses"]["status"])


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_free_slot_of_an_account_goes_at_once_to_an_early_ticket(
    request: pytest.FixtureRequest, devcloud: DevCloud, glance: Glance, tmp_path: Path, broker: str
) -> None:
    file = tmp_path / "small.raw"
    file.write_bytes(os.urandom(MIB))
    url = request.getfixturevalue(broker).url
    # If the end of an upload did not wake a waiting ticket, that ticket would wait for minutes.
    settings = {"account_uploads_max": 2, "wake_again_seconds": 120.0}
    with Stack.in_directory(tmp_path / "data", url, workers=2, **settings) as stack:
        stack.add_image(file, id=7)
        tickets = [stack.publish(publish_body(devcloud, URI)) for _ in range(10)]
        going_on: list[int] = []

        def look(_: dict[str, Any]) -> None:
            going_on.append(stack.store.publications.counts()[State.PUBLISHING])

        for ticket in tickets:
            assert stack.wait(ticket, 60, each=look)["published"]
            assert len(glance.images(ticket)) == 1
        ended = [stack.store.tickets.get(ticket["dbId"]) for ticket in tickets]
        started = [each.started or 0.0 for each in ended if each]
    for number, mine in enumerate(started):
        assert sum(later < mine for later in started[number + 1 :]) <= 1, "of two places the oldest have first choice"
    assert max(going_on) == 2


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_no_ticket_waits_behind_a_busy_worker_while_another_is_idle(
    request: pytest.FixtureRequest, devcloud: DevCloud, glance: Glance, tmp_path: Path, large_file: Path, broker: str
) -> None:
    small = tmp_path / "small.raw"
    small.write_bytes(os.urandom(MIB))
    url = request.getfixturevalue(broker).url
    # A message that waits in a busy worker would not be sent again before the long upload ends.
    settings = {"worker_concurrency": 1, "account_uploads_max": 0, "wake_again_seconds": 120.0}
    with (
        Stack.in_directory(tmp_path / "data", url, workers=2, **settings) as stack,
        Proxy(devcloud.glance_url, bytes_per_second=MIB) as slow,
    ):
        stack.add_image(large_file, id=7)
        stack.add_image(small, id=8)
        long = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(long)["percentage"] >= 2, 30)
        short = [stack.publish(publish_body(devcloud, URI.replace("7", "8"))) for _ in range(8)]
        for ticket in short:
            assert stack.wait(ticket, 20)["published"]
        assert not stack.status(long)["complete"]
        slow.bytes_per_second = None
        assert stack.wait(long)["published"]
