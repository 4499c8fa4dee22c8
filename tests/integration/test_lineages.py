"""Lineages with a real Glance: workers are killed at every step between verification and the end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from publisher.core.ticket import Older, State, Ticket
from publisher.core.vault import Vault
from publisher.devcloud.cloud import DevCloud
from publisher.store import Leases
from tests.clouds import Glance, publish_body
from tests.integration.test_withdraw import protect
from tests.records import put_back
from tests.servers.dying_worker import Step, die_at
from tests.servers.redis import RedisServer
from tests.stack import Stack
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.runner import Runner

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"
KEEP = 2
PUBLISHING: Sequence[Step] = [
    (OpenStackPublisher, "finish", "before"),
    (OpenStackPublisher, "finish", "after"),
    (Leases, "published", "before"),
    (Leases, "published", "after"),
]
"""What follows the verification of the new image."""
CLEANING: Mapping[str, Sequence[Step]] = {
    Older.WITHDRAW: [
        (OpenStackPublisher, "in_use", "after"),
        (OpenStackPublisher, "tagged_by", "after"),
        (Leases, "mark", "before"),
        (Leases, "mark", "after"),
        (OpenStackPublisher, "delete", "before"),
        (OpenStackPublisher, "delete", "after"),
        (Leases, "withdrawn", "before"),
        (Leases, "withdrawn", "after"),
    ],
    Older.HIDE: [
        (OpenStackPublisher, "in_use", "after"),
        (OpenStackPublisher, "hide", "before"),
        (OpenStackPublisher, "hide", "after"),
        (Leases, "retired", "before"),
        (Leases, "retired", "after"),
    ],
}
"""What is done with older images."""


@pytest.fixture
def stack(tmp_path: Path, redis: RedisServer) -> Iterator[Stack]:
    (tmp_path / "image.raw").write_bytes(os.urandom(1 << 20))
    with Stack.in_directory(tmp_path / "data", redis.url, workers=0) as running:
        running.add_image(tmp_path / "image.raw", id=7)
        yield running


class Lineage:
    """A lineage in a real Glance, and what each of its workers does."""

    def __init__(self, stack: Stack, devcloud: DevCloud, glance: Glance, older: Older) -> None:
        self.stack, self.glance, self.older = stack, glance, older
        self._body = publish_body(devcloud, URI, lineage="web", older=older, keep=None)
        if older is Older.WITHDRAW:
            self._body["keep"] = KEEP
        stored = json.dumps(self._body["credAccount"] | {"name": "lab"}).encode()
        answer = stack.call("POST", "users/root/accounts", stored, content_type="application/json")
        assert answer.status == 201, answer.body
        self._body["credAccount"] = {"dbId": answer.json["dbId"]}
        self.uris: list[str] = []
        self.killed: list[Step] = []

    def publish(self, steps: Sequence[Step], cleaning: Sequence[Step] = ()) -> None:
        """Publish, with a worker killed at each of the steps, also of the clean-up, and others that go on."""
        ticket = self.stack.publish(self._body)
        self.uris.append(ticket["uri"])
        for step in steps:
            self.work([self._ticket(ticket["dbId"])], step)
        self.work([self._ticket(ticket["dbId"])])
        for step in cleaning:
            self.work(self._to_do(), step)
        self.work(self._to_do())
        assert self._to_do() == []

    def work(self, tickets: Sequence[Ticket], step: Step | None = None) -> None:
        """Let a worker take these tickets. With a step, it is a process of its own that is killed there."""
        settings = self.stack.settings
        for ticket in tickets:
            put_back(self.stack.store, ticket, lease_until=1, wake_at=1)
            if step is None:
                Runner(self.stack.store, Vault.from_file(settings.key_file), settings, worker="w").run(ticket.id)
                continue
            if die_at(settings, ticket.id, step):
                self.killed.append(step)

    def _to_do(self) -> list[Ticket]:
        return [each for each in self.stack.store.tickets.list() if not each.final or each.retire]

    def _ticket(self, id: int) -> Ticket:
        found = self.stack.store.tickets.get(id)
        assert found is not None
        return found

    def images(self) -> dict[str, dict[str, Any]]:
        """Return the usable images, hidden ones too, by the URI of their ticket."""
        found = [*self.glance.images(), *self.glance.hidden_images()]
        return {each["publisher_ticket_uri"]: each for each in found if each["status"] == "active"}

    @property
    def newest(self) -> str:
        """The URI of the newest ticket that is published."""
        tickets = [each for each in self.stack.store.tickets.list() if each.state is State.PUBLISHED]
        return next(each for each in self.uris if each.endswith(f"/{tickets[-1].id}"))


class Watch:
    """Looks at Glance all the time, and counts the moments without a usable image in its usual list."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks, self.missing = 0, 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self.looks += 1
            self.missing += all(each["status"] != "active" for each in self._lineage.glance.images())


@pytest.mark.parametrize("older", CLEANING)
def test_workers_killed_at_every_step_leave_a_usable_image_at_every_moment(
    stack: Stack, devcloud: DevCloud, glance: Glance, older: Older
) -> None:
    lineage = Lineage(stack, devcloud, glance, older)
    lineage.publish([])
    cleaning, first = CLEANING[older], KEEP if older is Older.WITHDRAW else 1
    with Watch(lineage) as watch:
        for number in range(1, 5):
            # Each step of the clean-up is that of another publication, and so is each step after the verification.
            share = cleaning[number - first :: 5 - first] if number >= first else []
            lineage.publish(PUBLISHING[number - 1 : number], share)
            images = lineage.images()
            assert set(lineage.uris[-KEEP:]) <= set(images)
            assert not images[lineage.uris[-1]]["os_hidden"]
    assert set(lineage.killed) == {*PUBLISHING, *cleaning}
    assert watch.looks > len(lineage.killed)
    assert watch.missing == 0
    images = lineage.images()
    assert lineage.newest == lineage.uris[-1]
    if older is Older.WITHDRAW:
        assert list(images) == lineage.uris[-1:-3:-1], "exactly two are left: the newest"
    else:
        assert set(images) == set(lineage.uris)
        hidden = [images[uri]["os_hidden"] for uri in lineage.uris]
        assert hidden == [True] * 4 + [False], "the older ones are hidden, and not the new one"
    assert [each.sealed_secrets for each in stack.store.tickets.list()] == [None] * 5


@pytest.mark.parametrize("older", [Older.WITHDRAW, Older.RENAME])
def test_an_older_image_that_is_protected_stays_as_it_is(
    stack: Stack, devcloud: DevCloud, glance: Glance, older: Older
) -> None:
    lineage = Lineage(stack, devcloud, glance, older)
    lineage.publish([])
    (oldest,) = lineage.images().values()
    protect(glance, oldest["id"], protected=True)
    for _ in range(KEEP):
        lineage.publish([])
    try:
        first = stack.store.tickets.list()[0]
        assert first.state is State.PUBLISHED
        assert first.message.startswith("Published; not ")
        assert first.message.endswith("the image is in use: it is protected")
        assert lineage.images()[lineage.uris[0]]["name"] == oldest["name"]
    finally:
        protect(glance, oldest["id"], protected=False)
    lineage.publish([])
    first, *others = stack.store.tickets.list()
    assert first.error is None, "the next publication tries it again"
    if older is Older.RENAME:
        images = lineage.images()
        names = [images[uri]["name"] for uri in lineage.uris]
        assert names == [*(each.dated_name for each in (first, *others[:-1])), others[-1].name]
    else:
        assert set(lineage.images()) == set(lineage.uris[-KEEP:])
