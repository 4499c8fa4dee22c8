"""A cloud in memory, for tests only. Its images vanish with the worker's process.

The account's login selects its behaviour: `refuse` rejects the credentials, `flaky` interrupts the first upload of
each ticket half-way, and any other login works. The password must not be `wrong`.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from publisher.core.errors import PermanentCloudError, Reason, TransientCloudError
from publisher.core.image import Image
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import OutboundPolicy
from workers.clouds.base import CloudImage, CloudPublisher, Tagged, Tags, TicketRef, Timeouts
from workers.transfer import Transfer


@dataclass(slots=True)
class StoredImage:
    ticket_uid: str
    name: str
    size: int = 0
    sha256: str | None = None
    content: bytes = b""
    deployment: str = ""
    hidden: bool = False
    used_by: str | None = None
    made: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class MemoryCloud:
    """The state that all publishers of a process share."""

    images: dict[str, StoredImage] = field(default_factory=dict)
    broken_off: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


CLOUD = MemoryCloud()


class MemoryPublisher(CloudPublisher):
    platform: ClassVar[str] = "memory"

    def __init__(self, login: str, name: str) -> None:
        self._login = login
        self._name = name

    @classmethod
    def connect(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        login = str(account.fields.get("login", ""))
        if login == "refuse" or account.secrets.get("password") == "wrong":
            raise PermanentCloudError(
                "the memory cloud refused the login; check login and password", reason=Reason.CREDENTIALS
            )
        return cls(login, str(target.fields.get("displayName", "")))

    def check(self, image: Image) -> None:
        if not self._name:
            raise PermanentCloudError("the memory cloud wants a displayName")

    def find(self, ticket: TicketRef) -> CloudImage | None:
        with CLOUD.lock:
            for cloud_id, stored in CLOUD.images.items():
                if stored.ticket_uid == ticket.tags.ticket_uid:
                    return _cloud_image(cloud_id, stored)
        return None

    def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
        found = self.find(ticket)
        cloud_id = found.cloud_id if found else str(uuid.uuid4())
        if not found:
            ticket.journal.plan(cloud_id)
            with CLOUD.lock:
                CLOUD.images[cloud_id] = StoredImage(
                    ticket.tags.ticket_uid, self._name, deployment=ticket.tags.deployment
                )
            ticket.journal.present(cloud_id)
        received = bytearray()
        for chunk in transfer.chunks():
            received += chunk
            if (
                self._login == "flaky"
                and ticket.tags.ticket_uid not in CLOUD.broken_off
                and len(received) * 2 >= transfer.size
            ):
                CLOUD.broken_off.add(ticket.tags.ticket_uid)
                raise TransientCloudError("the memory cloud broke the upload off", reason=Reason.CONNECTION)
        with CLOUD.lock:
            stored = CLOUD.images[cloud_id]
            stored.content = bytes(received)
            stored.size, stored.sha256 = len(received), hashlib.sha256(received).hexdigest()
            return _cloud_image(cloud_id, stored)

    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        return uploaded

    def delete(self, cloud_id: str, tags: Tags) -> None:
        with CLOUD.lock:
            CLOUD.images.pop(cloud_id, None)

    def in_use(self, cloud_id: str) -> str | None:
        with CLOUD.lock:
            return CLOUD.images[cloud_id].used_by if cloud_id in CLOUD.images else None

    def hide(self, cloud_id: str, tags: Tags) -> None:
        with CLOUD.lock:
            if stored := _of_ticket(cloud_id, tags):
                stored.hidden = True

    def rename(self, cloud_id: str, tags: Tags, name: str) -> None:
        with CLOUD.lock:
            if stored := _of_ticket(cloud_id, tags):
                stored.name = name

    def tagged(self, deployment: str) -> Sequence[Tagged]:
        now = time.monotonic()
        with CLOUD.lock:
            found = [(cloud_id, each) for cloud_id, each in CLOUD.images.items() if each.deployment == deployment]
        return [Tagged(cloud_id, each.ticket_uid, now - each.made) for cloud_id, each in found]


def _of_ticket(cloud_id: str, tags: Tags) -> StoredImage | None:
    """Return an image; None if it is gone. Raises `PermanentCloudError` if it is another ticket's."""
    stored = CLOUD.images.get(cloud_id)
    if stored and stored.ticket_uid != tags.ticket_uid:
        raise PermanentCloudError(f"image {cloud_id} does not carry the tags of the ticket")
    return stored


def _cloud_image(cloud_id: str, stored: StoredImage) -> CloudImage:
    hashes = {"sha256": stored.sha256} if stored.sha256 else {}
    return CloudImage(cloud_id, bool(stored.sha256), stored.size, hashes, location="memory")
