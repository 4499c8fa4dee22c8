"""Flower's task list, the ticket store, the metrics and the console agree about the same publications."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from publisher.cli import programs
from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from publisher.services.wakeups import PUBLISH_TASK, WakeQueue
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.proxy import Proxy
from tests.servers.process import Server, free_port
from tests.servers.redis import RedisServer
from tests.stack import PASSWORD, Stack, until

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"
WRONG = "a-wrong-password-of-tests"
FLOWER_LOGIN = "operator:a-password-of-flower"
STATES = {
    "SUCCESS": State.PUBLISHED,
    "FAILURE": State.FAILED,
    "CANCELLED": State.CANCELLED,
    "RETRY": State.QUEUED,
}
"""Maps a task's state in Flower to its ticket's state. `IGNORED` has none: another message was faster."""


@dataclass(frozen=True)
class Flower:
    port: int

    def get(self, path: str) -> bytes:
        status, _, body = ask(self.port, "GET", path, {"Authorization": basic(FLOWER_LOGIN)})
        assert status == 200, (path, status)
        return body

    def tasks(self) -> list[dict[str, Any]]:
        """Return the publish tasks in the order of their receipt, each with the number of its ticket."""
        listed = json.loads(self.get(f"/api/tasks?taskname={PUBLISH_TASK}")).values()
        found = sorted(listed, key=lambda task: float(task["received"]))
        return [task | {"ticket": int(re.fullmatch(r"\((\d+),\)", task["args"])[1])} for task in found]  # type: ignore[index]  # none is different

    def sees(self, worker: str) -> bool:
        return f'flower_worker_online{{worker="{worker}"}} 1.0'.encode() in self.get("/metrics")


def basic(login: str) -> str:
    return "Basic " + b64encode(login.encode()).decode()


def ask(
    port: int, method: str, path: str, headers: dict[str, str], body: str | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30 * PATIENCE)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.fixture
def stack(tmp_path: Path, redis: RedisServer) -> Iterator[Stack]:
    with Stack.in_directory(tmp_path / "data", redis.url) as running:
        yield running


@pytest.fixture
def flower(stack: Stack) -> Iterator[Flower]:
    """A Flower that sees the worker. It knows nothing that happened before."""
    flower = Flower(free_port())
    login, _, password = FLOWER_LOGIN.partition(":")
    options = programs.flower_environment(address="127.0.0.1", port=flower.port, login=login, password=password)
    server = Server(
        programs.flower(),
        stack.logs / "flower.log",
        ready=lambda: answers(flower),
        environment=programs.inherited() | stack.settings.environment() | options,
    )
    server.start()
    try:
        until(lambda: flower.sees(f"worker0@{os.uname().nodename}"), 30)
        yield flower
    finally:
        server.signal(signal.SIGTERM)
        server.wait(10 * PATIENCE)


def answers(flower: Flower) -> bool:
    try:
        return ask(flower.port, "GET", "/healthcheck", {"Authorization": basic(FLOWER_LOGIN)})[0] == 200
    except OSError:
        return False


def publications(stack: Stack, devcloud: DevCloud) -> int:
    """Publish three tickets, one at its second attempt; let two fail, one of them twice; cancel two, one of them before
    a worker knows of it. Return the number of a published ticket for which a second message was sent."""
    published = [stack.publish(publish_body(devcloud, URI)) for _ in range(2)]
    refused = [stack.publish(publish_body(devcloud, URI, account__password=WRONG)) for _ in range(2)]
    for ticket in (*published, *refused):
        stack.wait(ticket)
    assert stack.call("POST", f"{refused[0]['uri']}/retry").status == 201
    assert stack.wait(refused[0])["error"]

    with Proxy(devcloud.glance_url, bytes_per_second=2 << 20) as slow:
        cut = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(cut)["percentage"] >= 10, 30)
        slow.cut()
        until(lambda: stack.store.tickets.get(cut["dbId"]).error, 30)  # type: ignore[union-attr]  # it is there
        slow.bytes_per_second = None
        assert stack.wait(cut)["complete"]
        slow.bytes_per_second = 2 << 20
        cancelled = stack.publish(publish_body(devcloud, URI, account__glanceUrl=slow.url))
        until(lambda: stack.status(cancelled)["percentage"] >= 10, 30)
        assert stack.call("DELETE", f"{cancelled['uri']}/cancel").status == 204
        assert stack.wait(cancelled)["cancelled"]

    # A paused worker learns of the ticket only after its cancel.
    stack.pause(stack.workers[0])
    late = stack.publish(publish_body(devcloud, URI))
    assert stack.call("DELETE", f"{late['uri']}/cancel").status == 204
    assert stack.status(late)["cancelled"]
    stack.workers[0].signal(signal.SIGCONT)
    queue = WakeQueue.open(stack.settings)
    queue.send(published[0]["dbId"])
    queue.close()
    return int(published[0]["dbId"])


def test_flower_store_metrics_and_console_agree(
    stack: Stack, flower: Flower, devcloud: DevCloud, glance: Glance, tmp_path: Path
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(4 << 20))
    stack.add_image(file, id=7)
    twice = publications(stack, devcloud)
    tickets = {ticket.id: ticket for ticket in stack.store.tickets.list()}

    def all_told() -> bool:
        tasks = flower.tasks()
        ignored = {task["ticket"] for task in tasks if task["state"] == "IGNORED"}
        at_work = [task for task in tasks if task["state"] in ("RECEIVED", "STARTED")]
        return not at_work and twice in ignored and {task["ticket"] for task in tasks} == set(tickets)

    until(all_told, 30, lambda: str([(task["ticket"], task["state"], task["result"]) for task in flower.tasks()]))

    counts = stack.store.statistics.counts()
    assert counts == {
        ("openstack", State.PUBLISHED): 3,
        ("openstack", State.FAILED): 2,
        ("openstack", State.CANCELLED): 2,
    }
    tasks = flower.tasks()
    told = [task for task in tasks if task["state"] != "IGNORED"]
    # The last task of a ticket tells the ticket's state.
    last = {task["ticket"]: task for task in told}
    assert {id: STATES[task["state"]] for id, task in last.items()} == {
        id: ticket.state for id, ticket in tickets.items()
    }
    # An image is published once, however many attempts that took. A failure tells its reason and nothing else.
    by_state = Counter(task["state"] for task in told)
    assert by_state == {"SUCCESS": 3, "FAILURE": 3, "CANCELLED": 2, "RETRY": 1}
    for task in told:
        assert task["traceback"] is None
        if task["state"] == "FAILURE":
            assert task["exception"] == tickets[task["ticket"]].error
    worker_log = stack.workers[0].log.read_text()
    assert "Traceback" not in worker_log
    for secret in (devcloud.password("uploader"), WRONG):
        assert secret not in json.dumps(tasks)

    check_metrics(stack, counts)
    check_console(stack, counts)


def check_metrics(stack: Stack, counts: dict[tuple[str, State], int]) -> None:
    """Check `publisher_tickets{state,platform}` at /metrics."""
    status, _, body = ask(stack.settings.intake_port, "GET", "/metrics", {})
    assert status == 200
    (family,) = [each for each in text_string_to_metric_families(body.decode()) if each.name == "publisher_tickets"]
    found = {(each.labels["platform"], State(each.labels["state"])): int(each.value) for each in family.samples}
    assert {key: value for key, value in found.items() if value} == counts


def check_console(stack: Stack, counts: dict[tuple[str, State], int]) -> None:
    """Check that the lists at /console name the tickets that the store has in each state, and no others."""
    port = stack.settings.intake_port
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{port}"}
    sent = urlencode({"login": "root", "password": PASSWORD})
    status, headers, _ = ask(port, "POST", "/console/sign-in", form, sent)
    assert status == 303
    cookie = "; ".join(each.partition(";")[0] for each in headers.get_all("Set-Cookie", []))
    for wanted in State:
        status, _, body = ask(port, "GET", f"/console/publications?state={wanted}", {"Cookie": cookie})
        assert status == 200
        shown = {int(id) for id in re.findall(rb'href="/console/publications/(\d+)"', body)}
        assert shown == {ticket.id for ticket in stack.store.tickets.list() if ticket.state is wanted}
        assert len(shown) == sum(count for (_, state), count in counts.items() if state is wanted)


def test_flower_shows_nothing_without_its_login(stack: Stack, flower: Flower) -> None:
    for path in ("/metrics", "/healthcheck", "/api/tasks", "/workers"):
        assert ask(flower.port, "GET", path, {})[0] == 401, path
