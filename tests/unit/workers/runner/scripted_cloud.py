"""A cloud that does what a test tells it to, and what may happen to a ticket meanwhile."""

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import pytest

from publisher.core.image import Image
from publisher.core.ticket import Account, State, Target, Ticket
from publisher.outbound.policy import OutboundPolicy
from publisher.store import Store
from tests.records import current, put_back
from workers.clouds.base import CloudImage, CloudPublisher, Tagged, TicketRef, Timeouts
from workers.transfer import Transfer

CONTENT = os.urandom((2 << 20) + 77)
SECRET = "hunter2"


def as_it_is(image: CloudImage) -> CloudImage:
    return image


@dataclass
class Script:
    """What a cloud does, and what has been asked of it."""

    images: dict[str, CloudImage] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    secrets: list[dict[str, str]] = field(default_factory=list)
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    """By the name of a step: what happens as it begins; mostly that an error is raised."""
    received: Callable[[CloudImage], CloudImage] = as_it_is
    """What the cloud makes of what it was sent."""
    region: str | None = None
    from_the_kernel: bool = False
    """What is sent passes through nobody's hands here, and is not hashed."""
    closed: int = 0

    def step(self, name: str) -> None:
        self.asked.append(name)
        if name in self.on:
            self.on[name]()

    def fail(self, step: str, error: BaseException) -> None:
        def happen() -> None:
            raise error

        self.on[step] = happen


def scripted(script: Script) -> type[CloudPublisher]:
    class Scripted(CloudPublisher):
        platform: ClassVar[str] = "scripted"

        @classmethod
        def connect(
            cls,
            account: Account,
            target: Target,
            timeouts: Timeouts,
            policy: OutboundPolicy,
            check: Callable[[], None] = lambda: None,
        ) -> Self:
            script.secrets.append(account.secrets)
            script.step("connect")
            cloud = cls()
            cloud.region = script.region
            return cloud

        def check(self, image: Image) -> None:
            script.step("check")

        def find(self, ticket: TicketRef) -> CloudImage | None:
            script.step("find")
            return next(iter(script.images.values()), None)

        def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
            script.step("upload")
            cloud_id = next(iter(script.images), None) or str(uuid.uuid4())
            if cloud_id not in script.images:
                ticket.journal.plan(cloud_id)
                script.images[cloud_id] = CloudImage(cloud_id, complete=False)
                ticket.journal.present(cloud_id)
            script.step("created")
            received = b""
            for chunk in transfer.chunks():
                received += chunk
                script.step("chunk")
            if script.from_the_kernel:
                transfer.sha256 = None
            hashes = {"sha512": hashlib.sha512(received).hexdigest()}
            script.images[cloud_id] = script.received(CloudImage(cloud_id, True, len(received), hashes))
            return script.images[cloud_id]

        def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
            script.step("finish")
            return dataclasses.replace(uploaded, location="RegionOne")

        def delete(self, cloud_id: str) -> None:
            script.step("delete")
            script.images.pop(cloud_id, None)

        def tagged(self, deployment: str) -> Sequence[Tagged]:
            return []

        def close(self) -> None:
            script.closed += 1

    return Scripted


class Waker:
    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, ticket_id: int) -> None:
        self.sent.append(ticket_id)

    def send_image(self, image_id: int) -> None:
        raise NotImplementedError


def due_now(store: Store, ticket: Ticket) -> None:
    put_back(store, ticket, not_before=0.01, wake_at=0.01)


def cloud_ids(store: Store, ticket: Ticket) -> list[str]:
    return [entry.state for entry in store.tickets.journal(ticket.id)]


def cancel(store: Store, ticket: Ticket) -> None:
    """What a caller does, while the work goes on; once, however often it is called."""
    if current(store, ticket).state is State.PUBLISHING:
        store.tickets.request_cancel(ticket.id)


def take_over(store: Store, ticket: Ticket) -> None:
    """What happens when this worker is taken for dead: another one claims the ticket."""
    for _ in range(100):
        put_back(store, ticket, lease_until=1)
        if store.leases.claim(ticket.id, "another", 60):
            return
        # The first worker has renewed its lease just in between.
    pytest.fail("it cannot be taken over")
