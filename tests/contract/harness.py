"""What the tests need to know of a cloud plugin. `tests/contract/clouds` has a module for each plugin."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import Cancelled
from publisher.core.image import Image
from publisher.core.ticket import Account, CloudRef, Target
from publisher.files.hashing import digest
from publisher.outbound.policy import EVERYWHERE
from publisher.platforms.platform import Platform, platform_of
from workers.clouds.base import CloudImage, CloudPublisher, NoScratchSpace, ScratchSpace, Tags, TicketRef, Timeouts
from workers.transfer import Transfer

TIMEOUTS = Timeouts(5, 20, 30)


@dataclass
class MemoryJournal:
    """A ticket's journal as the runner keeps it, in memory."""

    kept: dict[str, str] = field(default_factory=dict)
    planning_fails: bool = False

    def entries(self) -> Sequence[CloudRef]:
        return [CloudRef(cloud_id, state) for cloud_id, state in self.kept.items()]

    def plan(self, cloud_id: str) -> None:
        if self.planning_fails:
            raise Cancelled
        self.kept[cloud_id] = "planned"

    def present(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "present"

    def condemn(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "condemned"

    def gone(self, cloud_id: str) -> None:
        self.kept[cloud_id] = "gone"


@dataclass
class Harness(ABC):
    """A plugin, with the account and the target to test it with, and a view of the cloud that is not the plugin's."""

    plugin: type[CloudPublisher]
    account: Account
    target: Target
    scratch: ScratchSpace = field(default_factory=NoScratchSpace)
    partner: str | None = None
    """A project that images can be shared with. None if this account cannot share, whatever the platform takes."""
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    ref: TicketRef = field(init=False)

    def __post_init__(self) -> None:
        self.new_ticket()

    @abstractmethod
    def content(self, cloud_id: str) -> bytes:
        """Return the bytes of an image in the cloud."""

    @abstractmethod
    def attributes(self, cloud_id: str) -> Mapping[str, Any]:
        """Return the image attributes that the cloud shows of an image, by their names in the API.

        `properties` is a mapping here, `sharedWith` contains projects as `partner` names them, and `name` is the name.
        """

    @property
    def platform(self) -> Platform:
        """What the requests, the console and the command line know of the cloud."""
        return platform_of(self.account.platform)

    def new_ticket(self, deployment: str = "tests") -> None:
        """Go on with another ticket, of this installation."""
        self.journal = MemoryJournal()
        self.ref = TicketRef(
            tags=Tags(str(uuid.uuid4()), deployment),
            ticket_uri="users/root/appliances/4/images/7/pimages/1",
            image_uri="users/root/appliances/4/images/7",
            appliance_uri="users/root/appliances/4",
            journal=self.journal,
            scratch=self.scratch,
        )

    def want(self, **target: object) -> None:
        """Change the target: what the next connection publishes with."""
        self.target = replace(self.target, fields=self.target.fields | target)

    def connect(self, password: str | None = None) -> CloudPublisher:
        account = replace(self.account, secrets={"password": password}) if password else self.account
        return self.plugin.connect(account, self.target, TIMEOUTS, EVERYWHERE)

    def publish(self, image: tuple[Image, Path], on_sent: Callable[[int], None] = lambda _: None) -> CloudImage:
        """Do what an attempt does, in its order."""
        record, file = image
        cloud = self.connect()
        found = uploaded = cloud.find(self.ref)
        if found is None or not found.complete:
            cloud.check(record)
            uploaded = cloud.upload(record, replace(self.ref, found=found), transfer_of(file, on_sent=on_sent))
        assert uploaded is not None
        return cloud.finish(uploaded, record)

    def clean_up(self) -> None:
        """Delete what an attempt has left, as it does when it fails or is cancelled."""
        cloud = self.connect()
        for cloud_id in self.left():
            self.journal.condemn(cloud_id)
            if self.target.fields.get("protected"):
                cloud.release(cloud_id, self.ref.tags)
            cloud.delete(cloud_id, self.ref.tags)
            self.journal.gone(cloud_id)

    def left(self) -> set[str]:
        """Return the ids of the images that, by the journal, may be in the cloud."""
        return {cloud_id for cloud_id, state in self.journal.kept.items() if state != "gone"}

    def tagged(self) -> set[str]:
        """Return the ids of the images that, by their tags, the installation has in the cloud."""
        return {each.cloud_id for each in self.connect().tagged(self.ref.tags.deployment)}


@dataclass(frozen=True)
class Obstacle:
    """Why a cloud refuses an image, which a preflight finds out."""

    says: str
    """A part of the message, or the name of the element at fault."""
    target: Mapping[str, object] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)
    """What the request, or the image, has that the cloud refuses."""
    arranged: Callable[[Harness], AbstractContextManager[None]] = lambda _: nullcontext()
    """What is in the cloud meanwhile."""


@dataclass(frozen=True)
class Cloud:
    """A cloud to test a plugin with: `open` makes it ready for one test."""

    name: str
    open: Callable[[pytest.FixtureRequest], AbstractContextManager[Harness]]
    obstacles: Mapping[str, Obstacle] = field(default_factory=dict)
    real: bool = False
    other_sign_in: bool = False
    """Whether it differs from another cloud only in how one signs in: then only `test_cloud_plugins` uses it."""

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        return [pytest.mark.real] if self.real else []


def transfer_of(
    file: Path,
    *,
    stop_at: int | None = None,
    check: Callable[[], None] = lambda: None,
    on_sent: Callable[[int], None] = lambda _: None,
) -> Transfer:
    """Return a transfer of the file. With `stop_at`, it is cancelled after so many bytes."""
    sent = 0

    def note(count: int) -> None:
        nonlocal sent
        sent = count
        on_sent(count)

    def look() -> None:
        check()
        if stop_at is not None and sent >= stop_at:
            raise Cancelled

    with file.open("rb") as opened:  # the transfer keeps its own descriptor
        return Transfer(opened.fileno(), file.stat().st_size, check=look, on_sent=note)


def record_of(file: Path) -> Image:
    """Return the record of a registered raw disk."""
    known = digest(file)
    return Image(
        id=7,
        owner="root",
        appliance_id=4,
        name="contract",
        format="raw",
        disk_format="raw",
        size=known.size,
        virtual_size=known.size,
        md5=known.md5,
        sha256=known.sha256,
        sha512=known.sha512,
        location=file.name,
        created=0.0,
    )


def size_told(image: CloudImage) -> int | None:
    """Return the size of the file that the image was made of, as the cloud counted it or the plugin vouches for it."""
    return image.size if image.source_size is None else image.source_size
