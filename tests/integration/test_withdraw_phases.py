"""A withdrawal at every step of a publication and of a withdrawal, with a real Keystone and Glance.

Each ticket is held at another request to the cloud. Whatever happens then, at the end nothing is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.integration.test_withdraw import URI
from tests.proxy import HoldingProxy
from tests.servers.redis import RedisServer
from tests.stack import Stack, until

pytestmark = pytest.mark.real

SIGN_IN = "POST /v3/auth/tokens"
PUBLISHING = {
    "signing in": SIGN_IN,
    "searching": r"GET /v2/images\?",
    "creating": r"POST /v2/images ",
    "uploading": r"PUT /v2/images/",
    "verifying": r"GET /v2/images/[0-9a-f-]{36} ",
    "finishing": r"PATCH /v2/images/",
}
"""The request to hold while an image is published."""
WITHDRAWING = {
    "searching": (r"GET /v2/images\?", 0),
    "deleting": (r"DELETE /v2/images/", 0),
    "proving": (r"GET /v2/images/[0-9a-f-]{36} ", 0),
    "searching again": (r"GET /v2/images\?", 1),
}
"""The request to hold while an image is withdrawn, and how many like it come before."""
ENDED = (State.CANCELLED, State.WITHDRAWN)


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    redis: RedisServer = request.getfixturevalue("redis")
    directory = tmp_path_factory.mktemp("stack")
    threads = len(PUBLISHING) + 1
    settings: dict[str, Any] = {"worker_concurrency": threads, "account_uploads_max": threads}
    settings["database_url"] = request.getfixturevalue("postgres").fresh()
    (directory / "image.raw").write_bytes(os.urandom(1 << 20))
    with Stack.in_directory(directory / "data", redis.url, **settings) as running:
        running.add_image(directory / "image.raw", id=7)
        yield running


@pytest.fixture
def proxies(devcloud: DevCloud) -> Iterator[Callable[[str], HoldingProxy]]:
    """Start proxies to Keystone or Glance."""
    with ExitStack() as started:
        yield lambda url: started.enter_context(HoldingProxy(url))


class Held:
    """A ticket that is held at one step, and the proxy that holds it."""

    def __init__(self, stack: Stack, devcloud: DevCloud, proxy: HoldingProxy, **changes: Any) -> None:
        self._stack, self.proxy = stack, proxy
        self._body = publish_body(devcloud, URI, **changes)
        self.ticket = stack.publish(self._body)

    def withdraw(self) -> None:
        """Request the withdrawal twice."""
        body = json.dumps(self._body["credAccount"]).encode()
        for _ in range(2):
            answer = self._stack.call("POST", f"{self.ticket['uri']}/withdraw", body, content_type="application/json")
            assert answer.status == 200, answer.body

    @property
    def state(self) -> State:
        found = self._stack.store.tickets.get(self.ticket["dbId"])
        assert found is not None
        return found.state


def go_on(stack: Stack, held: list[Held]) -> None:
    for each in held:
        each.proxy.release()


def kill_the_worker(stack: Stack, held: list[Held]) -> None:
    """Kill the worker. What it had requested reaches the cloud when another worker has ended the tickets."""
    stack.workers[-1].kill()
    stack.add_worker()
    until(lambda: all(each.state in ENDED for each in held), 60)
    for each in held:
        each.proxy.release()
        until(lambda each=each: each.proxy.idle, 30)  # type: ignore[misc]


def lose_the_cloud(stack: Stack, held: list[Held]) -> None:
    """Cut all connections, and let no new one through until each ticket has tried that, or needs none."""
    for each in held:
        each.proxy.stall()
        each.proxy.cut()
    until(lambda: all(each.proxy.waiting_for_new or each.state in ENDED for each in held), 60)
    for each in held:
        each.proxy.release()
        each.proxy.resume()


FAULTS = [go_on, kill_the_worker, lose_the_cloud]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_withdrawal_at_every_step_of_a_publication(
    stack: Stack,
    devcloud: DevCloud,
    glance: Glance,
    proxies: Callable[[str], HoldingProxy],
    fault: Callable[[Stack, list[Held]], None],
) -> None:
    held: list[Held] = []
    for request in PUBLISHING.values():
        keystone = request == SIGN_IN
        proxy = proxies(devcloud.keystone_url if keystone else devcloud.glance_url)
        proxy.hold(request)
        url = {"account__keystoneUrl" if keystone else "account__glanceUrl": proxy.url}
        held.append(Held(stack, devcloud, proxy, protected=True, **url))
    until(lambda: all(each.proxy.held for each in held), 60)
    for each in held:
        each.withdraw()
    fault(stack, held)
    until(lambda: all(each.state is State.CANCELLED for each in held), 60, lambda: str([each.state for each in held]))
    left = {step: glance.images(each.ticket) for step, each in zip(PUBLISHING, held, strict=True)}
    assert left == {step: [] for step in PUBLISHING}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_step_of_a_withdrawal(
    stack: Stack,
    devcloud: DevCloud,
    glance: Glance,
    proxies: Callable[[str], HoldingProxy],
    fault: Callable[[Stack, list[Held]], None],
) -> None:
    held = []
    for _ in WITHDRAWING:
        proxy = proxies(devcloud.glance_url)
        held.append(Held(stack, devcloud, proxy, account__glanceUrl=proxy.url))
    for each, (request, skip) in zip(held, WITHDRAWING.values(), strict=True):
        assert stack.wait(each.ticket)["published"]
        each.proxy.hold(request, skip=skip)
        each.withdraw()
    until(lambda: all(each.proxy.held for each in held), 60)
    for each in held:
        each.withdraw()
    fault(stack, held)
    until(lambda: all(each.state is State.WITHDRAWN for each in held), 60, lambda: str([each.state for each in held]))
    assert [glance.images(each.ticket) for each in held] == [[]] * len(held)


def test_a_withdrawal_while_the_ticket_waits_and_no_worker_runs(stack: Stack, devcloud: DevCloud) -> None:
    stack.workers[-1].kill()
    with HoldingProxy(devcloud.glance_url) as proxy:
        waiting = Held(stack, devcloud, proxy, account__glanceUrl=proxy.url)
        waiting.withdraw()
        assert waiting.state is State.CANCELLED
        stack.add_worker()
        assert proxy.onward == 0, "no cloud was touched"


def test_a_ticket_that_has_failed_has_nothing_to_withdraw(stack: Stack, devcloud: DevCloud, glance: Glance) -> None:
    body = publish_body(devcloud, URI, keystoneProject="missing")
    ticket = stack.publish(body)
    assert stack.wait(ticket)["error"]
    account = json.dumps(body["credAccount"]).encode()
    answer = stack.call("POST", f"{ticket['uri']}/withdraw", account, content_type="application/json")
    assert answer.status == 409
    assert "has published nothing" in answer.body.decode()
    assert glance.images(ticket) == []
