"""A cloud that follows a test's script, and helpers that change a ticket while a worker has it."""

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
from workers.clouds.base import CloudImage, CloudPublisher, Tagged, Tags, TicketRef, Timeouts
from workers.transfer import Transfer

CONTENT = os.urandom((2 << 20) + 77)
SECRET = "hunter2"


def as_it_is(image: CloudImage) -> CloudImage:
    return image


@dataclass
class Script:
    """The behaviour of a cloud, and a record of its calls."""

    images: dict[str, CloudImage] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    links: list[str | None] = field(default_factory=list)
    """Where the cloud could have downloaded each image itself."""
    secrets: list[dict[str, str]] = field(default_factory=list)
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Maps a step's name to a function that runs when the step begins, usually to raise an error."""
    received: Callable[[CloudImage], CloudImage] = as_it_is
    """Turns an uploaded image into the image that the cloud keeps."""
    region: str | None = None
    kept: bool = False
    """Whether there is a sign-in of an earlier ticket, until a call fails."""
    from_the_kernel: bool = False
    """The kernel sends the file, so that the worker cannot hash it on the way."""
    closed: int = 0
    strays: dict[str, str] = field(default_factory=dict)
    """Maps the ids of images that no journal lists to the tickets in their tags."""
    deleted: list[str] = field(default_factory=list)

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
            cloud.kept = script.kept
            return cloud

        def keep_sign_in(self) -> None:
            if "keep" in script.on:
                script.step("keep")
            script.kept = True

        def forget_sign_in(self) -> None:
            script.kept = False

        def check(self, image: Image) -> None:
            script.step("check")

        def find(self, ticket: TicketRef) -> CloudImage | None:
            script.step("find")
            return next(iter(script.images.values()), None)

        def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
            script.links.append(ticket.link)
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

        def delete(self, cloud_id: str, tags: Tags) -> None:
            script.step("delete")
            script.images.pop(cloud_id, None)
            script.strays.pop(cloud_id, None)
            script.deleted.append(cloud_id)

        def release(self, cloud_id: str, tags: Tags) -> None:
            script.step("release")

        def tagged(self, deployment: str) -> Sequence[Tagged]:
            script.step("tagged")
            return [Tagged(cloud_id, ticket_uid) for cloud_id, ticket_uid in script.strays.items()]

        def close(self) -> None:
            script.closed += 1

    return Scripted


class Waker:
    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, *ticket_ids: int) -> None:
        self.sent.extend(ticket_ids)

    def send_image(self, *image_ids: int) -> None:
        raise NotImplementedError

    def send_check(self, *check_ids: int) -> None:
        raise NotImplementedError


def due_now(store: Store, ticket: Ticket) -> None:
    put_back(store, ticket, not_before=0.01, wake_at=0.01)


def cloud_ids(store: Store, ticket: Ticket) -> list[str]:
    return [entry.state for entry in store.tickets.journal(ticket.id)]


def cancel(store: Store, ticket: Ticket) -> None:
    """Cancel a ticket as a caller does, if it is being published. Further calls do nothing."""
    if current(store, ticket).state is State.PUBLISHING:
        store.tickets.request_cancel(ticket.id)


def take_over(store: Store, ticket: Ticket) -> None:
    """Let another worker claim the ticket, as if this one were dead."""
    for _ in range(100):
        put_back(store, ticket, lease_until=1)
        if store.leases.claim(ticket.id, "another", 60):
            return
        # The first worker has just renewed its lease: try again.
    pytest.fail("it cannot be taken over")
