"""A plugin for a cloud that makes several objects of an image: a snapshot, and an image of that snapshot.

It shows how to publish to such a cloud. The handle of all objects is a random UUID: the snapshot's token, a part of the
image's name, and a tag of both. The cloud takes blocks, and no file that does not fill its last block, so the image is
copied to scratch space and filled up. The cloud reports no hash, so the plugin compares the file before it registers an
image of it, and stores hash and size of the file in the tags.

It takes all image attributes: most when it registers the image, the sharing and the protection when it finishes.

The account's login is the cloud's directory. The password must not be `wrong`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from memory_cloud.parts_cloud import BLOCK_BYTES, PROJECTS, REGIONS, PartsCloud, PartsImage, Snapshot
from memory_cloud.platform import PLATFORM
from publisher.core.errors import InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from publisher.core.image import Image
from publisher.core.image_attributes import ATTRIBUTES, attributes_of
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import Platform
from workers.clouds.base import CloudImage, CloudPublisher, Tagged, Tags, TicketRef, Timeouts
from workers.transfer import Transfer

PARTS = Platform(
    name="parts",
    label="Parts",
    account_fields=PLATFORM.account_fields,
    target_fields=PLATFORM.target_fields,
    takes=PLATFORM.takes,
    attributes=frozenset(ATTRIBUTES),
)
"""Its platform. No entry point names it: the tests use the plugin in place of the simpler one."""
_AT_ONCE = 3
"""Blocks that are sent at a time."""
_TRIES = 3
"""How often the parts are searched for and deleted: one may appear meanwhile."""


class PartsPublisher(CloudPublisher):
    platform: ClassVar[str] = "memory"

    def __init__(self, cloud: PartsCloud, target: Mapping[str, Any], check: Callable[[], None]) -> None:
        self._cloud = cloud
        self._name = str(target.get("displayName", ""))
        self._attributes = attributes_of(target)
        self._check = check

    @classmethod
    def connect(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        if account.secrets.get("password") == "wrong":
            raise PermanentCloudError("the cloud refused the login; check the password", reason=Reason.CREDENTIALS)
        return cls(PartsCloud(Path(account.fields["login"])), target.fields, check)

    def check(self, image: Image) -> None:
        self._check()
        for name, known in (("sharedWith", PROJECTS), ("regions", REGIONS)):
            for each in self._attributes.get(name, ()):
                if each not in known:
                    raise InvalidRequest(f"there is no '{each}'; use one of {', '.join(known)}", field=name)
        if image.size > self._cloud.room():
            raise PermanentCloudError("the image does not fit into the quota", reason=Reason.QUOTA)

    def check_creation(self, image: Image) -> None:
        if self._attributes.get("visibility") == "public":
            raise InvalidRequest("the login may not make images public", field="visibility")

    def find(self, ticket: TicketRef) -> CloudImage | None:
        journal = {entry.cloud_id: entry.state for entry in ticket.journal.entries()}
        for each in self.tagged(ticket.tags.deployment):
            if each.ticket_uid == ticket.tags.ticket_uid and each.cloud_id not in journal:
                ticket.journal.plan(each.cloud_id)  # the journal was restored from a backup
                journal[each.cloud_id] = "planned"
        handles = [handle for handle, state in journal.items() if state != "gone"]
        for handle in handles[1:]:
            self._delete_noted(handle, ticket)
        return self._found(handles[0]) if handles else None

    def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
        self.check_creation(image)
        handle = ticket.found.cloud_id if ticket.found and not ticket.found.complete else None
        snapshot = self._cloud.snapshot(handle) if handle else None
        if handle and snapshot and not _is_of(snapshot, image):
            # Deleted, or of an earlier revision of the image.
            self._delete_noted(handle, ticket)
            handle = snapshot = None
        if handle is None:
            handle = str(uuid.uuid4())
            ticket.journal.plan(handle)
        self.reached("planned")
        if snapshot is None or snapshot.state == "open":
            self._fill(handle, image, ticket, transfer)
        self.reached("complete")
        self._check()
        self._cloud.register_image(f"{self._name} {handle}", handle, _tags(handle, ticket.tags, image), self._first())
        self.reached("registered")
        found = self._found(handle)
        if not found.complete:
            raise TransientCloudError("the image does not appear")
        return found

    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        self.reached("finish")
        last = {name: value for name, value in self._attributes.items() if name in ("sharedWith", "protected")}
        if last and uploaded.shown_id:
            if "sharedWith" in last:
                last["visibility"] = "shared"
            self._cloud.change_image(uploaded.shown_id, **last)
        return uploaded

    def release(self, cloud_id: str, tags: Tags) -> None:
        for each in self._images(cloud_id):
            if each.tags["publisher_ticket"] == tags.ticket_uid:
                self._cloud.change_image(each.id, protected=False)

    def delete(self, cloud_id: str, tags: Tags) -> None:
        # Use up the token: a request to create the snapshot may still be on its way.
        self._cloud.create_snapshot(cloud_id, _tags(cloud_id, tags))
        self.reached("deleting")
        for _ in range(_TRIES):
            self._check()
            for each in self._images(cloud_id):
                self._cloud.delete_image(each.id)
            self.reached("image deleted")
            try:
                self._cloud.delete_snapshot(cloud_id)
            except TransientCloudError:
                continue
            return
        raise TransientCloudError("the snapshot is still in use")

    def tagged(self, deployment: str) -> Sequence[Tagged]:
        self._check()
        made: dict[tuple[str, str], list[float]] = defaultdict(list)
        parts: list[Snapshot | PartsImage] = [*self._cloud.snapshots(), *self._cloud.images()]
        for each in parts:
            if each.tags["publisher_deployment"] == deployment:
                made[each.tags["publisher_cloud_id"], each.tags["publisher_ticket"]].append(each.made)
        return [Tagged(handle, uid, time.time() - min(times)) for (handle, uid), times in made.items()]

    def reached(self, step: str) -> None:
        """Do nothing. Tests stop the work here."""

    def _fill(self, handle: str, image: Image, ticket: TicketRef, transfer: Transfer) -> None:
        """Send the image to the snapshot, and complete it if what was sent is what was registered."""
        size = -(-image.size // BLOCK_BYTES) * BLOCK_BYTES
        copy = ticket.scratch.reserve(size) / "disk"
        with transfer.converting():
            self.reached("converting")
            shutil.copyfile(f"/dev/fd/{transfer.descriptor}", copy)
            os.truncate(copy, size)
            transfer.read_again()
        if transfer.sha256 != image.sha256:
            raise PermanentCloudError("the image file is not what was registered", reason=Reason.INTEGRITY)
        self.reached("converted")
        self._check()
        self._cloud.create_snapshot(handle, _tags(handle, ticket.tags, image))
        self.reached("created")
        ticket.journal.present(handle)

        def send(offset: int, content: memoryview) -> None:
            transfer.check()
            self._cloud.put_block(handle, offset, content, hashlib.sha256(content).hexdigest())
            self.reached("block")

        with copy.open("rb") as opened:
            transfer.converted(opened.fileno()).each_block(BLOCK_BYTES, send, at_once=_AT_ONCE)
        self.reached("sent")
        self._check()
        self._cloud.complete_snapshot(handle)

    def _found(self, handle: str) -> CloudImage:
        image, snapshot = next(iter(self._images(handle)), None), self._cloud.snapshot(handle)
        if image is None or snapshot is None or snapshot.state != "complete":
            return CloudImage(handle, complete=False)
        size = int(image.tags["publisher_size"])
        sha256 = image.tags["publisher_sha256"]
        return CloudImage(handle, True, shown_id=image.id, source_sha256=sha256, source_size=size, location="memory")

    def _first(self) -> dict[str, Any]:
        """Return the attributes that the image gets when it is registered."""
        return {name: value for name, value in self._attributes.items() if name not in ("sharedWith", "protected")}

    def _images(self, handle: str) -> list[PartsImage]:
        return [each for each in self._cloud.images() if each.snapshot == handle]

    def _delete_noted(self, handle: str, ticket: TicketRef) -> None:
        ticket.journal.condemn(handle)
        self.delete(handle, ticket.tags)
        ticket.journal.gone(handle)


def _tags(handle: str, tags: Tags, image: Image | None = None) -> dict[str, str]:
    made = {
        "publisher_ticket": tags.ticket_uid,
        "publisher_deployment": tags.deployment,
        "publisher_cloud_id": handle,
    }
    return made | ({"publisher_sha256": image.sha256, "publisher_size": str(image.size)} if image else {})


def _is_of(snapshot: Snapshot, image: Image) -> bool:
    return snapshot.state != "deleted" and snapshot.tags.get("publisher_sha256") == image.sha256
