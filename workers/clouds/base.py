"""The contract of a cloud plugin."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from publisher.core.cloud_check import Explored
from publisher.core.errors import ConfigurationError
from publisher.core.image import Image
from publisher.core.ticket import Account, CloudRef, Target
from publisher.outbound.policy import OutboundPolicy
from workers.transfer import Transfer

SIGN_IN_SECONDS_MAX = 900.0
"""How long a sign-in is used for further tickets. Changes in the cloud (projects, endpoints) have effect by then."""
_SIGN_INS_MAX = 64
"""Number of sign-ins that are kept. More accounts than this are rarely in use at once, and each keeps a catalog."""
Kept = TypeVar("Kept")


class KeptSignIns(Generic[Kept]):
    """The sign-ins of a plugin, kept in memory for the next tickets of the same account. Safe to use in threads.

    They are found by a digest of all that the account consists of, its secrets included. So no ticket gets the sign-in
    of other secrets, and a changed account or password is signed in anew. Keep tokens, never the secrets themselves:
    each ticket brings its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[float, Kept]] = {}

    def key(self, account: Account, *more: object) -> bytes:
        """Return the key of an account, and of whatever else decides how and where to sign in (`more`)."""
        parts = [account.platform, account.fields, account.secrets, [repr(each) for each in more]]
        return hmac.digest(self._key, json.dumps(parts, sort_keys=True, default=repr).encode(), hashlib.sha256)

    def get(self, key: bytes) -> Kept | None:
        with self._lock:
            self._expire()
            found = self._kept.get(key)
            return found[1] if found else None

    def keep(self, key: bytes, sign_in: Kept, seconds: float) -> None:
        """Keep a sign-in for `seconds`, instead of an older one. The oldest is forgotten if there are too many."""
        with self._lock:
            self._kept.pop(key, None)
            self._expire()
            if seconds > 0:
                while len(self._kept) >= _SIGN_INS_MAX:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = self._clock() + min(seconds, SIGN_IN_SECONDS_MAX), sign_in

    def forget(self, key: bytes) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, (until, _) in self._kept.items() if until <= now]:
            del self._kept[key]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a plugin waits for its cloud. In seconds."""

    connect_seconds: float = 10.0
    call_seconds: float = 60.0
    verify_seconds: float = 900.0

    @property
    def silent_seconds(self) -> float:
        """How long a method may go without a call of `check`.

        After that it is stuck: within one request it may be silent.
        """
        return self.connect_seconds + 2 * self.call_seconds

    @property
    def verifying_seconds(self) -> float:
        """The same limit for `upload` and `finish`, during which the cloud processes the image."""
        return self.verify_seconds + self.silent_seconds

    @property
    def longest_seconds(self) -> float:
        """How long any method may take, counted from the last byte of an image that it moved."""
        return self.verify_seconds + 10 * self.call_seconds


@dataclass(frozen=True, slots=True)
class CloudImage:
    """An image as the cloud reports it."""

    cloud_id: str
    """The handle: one id for all parts of a publication, such as a snapshot and an image. The plugin chooses it, or
    takes the cloud's own. Journal, tags, `delete` and `tagged` know no other id."""
    complete: bool
    """Whether all bytes have arrived and the cloud says that the image is usable."""
    size: int | None = None
    """Number of bytes that the cloud counted."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Hashes of what the cloud received: algorithm ("sha512", "sha256", "md5") to lower-case hex. Empty if it reports
    none."""
    location: str | None = None
    """Where the image is, for people to read: a region or an endpoint."""
    shown_id: str | None = None
    """The cloud's own id of the image, for people and for `cloudId`. None if that is the handle."""
    source_sha256: str | None = None
    """The plugin vouches that the image was made of a file with this hash and `source_size` bytes. For a cloud that
    reports no hash of the file: the plugin compared what it read before it registered the image, and stored both values
    with the image, so that a later attempt can adopt it. `size` and `hashes` are then not needed."""
    source_size: int | None = None


@dataclass(frozen=True, slots=True)
class Tags:
    """What each object that we create in a cloud carries: for which ticket, and by which installation."""

    ticket_uid: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """An object in the cloud whose tags say that an installation created it for a ticket."""

    cloud_id: str
    """The handle, if the object has several parts."""
    ticket_uid: str
    age_seconds: float | None = None
    """Approximate time since the cloud created it; None if the cloud does not say."""


class Journal(Protocol):
    """The ticket's list of the cloud objects that it has created. Each method may raise `LeaseLost` or `Cancelled`."""

    def entries(self) -> Sequence[CloudRef]: ...

    def plan(self, cloud_id: str) -> None:
        """Record an object before it is created."""

    def present(self, cloud_id: str) -> None:
        """Record that the cloud has confirmed the object."""

    def condemn(self, cloud_id: str) -> None:
        """Record that an object is about to be deleted.

        No other attempt uses the object from then on, because the deletion may arrive late: from a worker that was
        paused, or over a connection that stalled.
        """

    def gone(self, cloud_id: str) -> None:
        """Record that the cloud has confirmed that the object does not exist, or no longer does."""


class ScratchSpace(Protocol):
    """Space for files that a plugin makes of the image. All of it is deleted after the attempt."""

    def reserve(self, size: int) -> Path:
        """Return a new, empty directory for files of `size` bytes together. Call it before the first byte is sent.

        Raises `ConfigurationError` or `TransientCloudError` if there is not so much space.
        """


class NoScratchSpace:
    """Scratch space for a caller that has none."""

    def reserve(self, size: int) -> Path:
        raise ConfigurationError("there is no scratch space here")


@dataclass(frozen=True, slots=True)
class TicketRef:
    """What a plugin knows of the ticket it works for."""

    tags: Tags
    ticket_uri: str
    image_uri: str
    appliance_uri: str
    journal: Journal
    scratch: ScratchSpace = field(default_factory=NoScratchSpace)
    found: CloudImage | None = None
    """For `upload`: what `find` returned. If that was complete, the worker has deleted it since."""
    link: str | None = field(default=None, repr=False)
    """For `upload`: where the cloud itself can download the image, once. It contains a key. None if the installation
    does not say under which address the cloud reaches it."""


class CloudPublisher(ABC):
    """One cloud account that images are published to.

    Methods raise `InvalidRequest` and `PermanentCloudError` for errors that another attempt would not fix, and
    `TransientCloudError` for errors that it might fix. Only the type decides. The messages are shown to the caller:
    they say what to do, and never contain a secret. Every call to the cloud has a time-out.
    """

    platform: ClassVar[str]
    region: str | None = None
    """Region that images go to, known after sign-in. None if the cloud has no regions, or does not name them."""
    kept: bool = False
    """Whether this uses the sign-in of an earlier ticket. If its first call fails, the worker connects once more."""

    @classmethod
    @abstractmethod
    def connect(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        """Sign in and return the signed-in plugin. A wrong credential raises `PermanentCloudError`.

        Every address that the account or the cloud itself names must be connected to through `policy`: with
        `policy.connect`, or with a client of `workers.http_clients`.

        Every method calls `check` before each request and while it waits. `check` stops the method by raising; let the
        exception pass. Later calls may return normally again, so that the same object can clean up. A method that does
        not call `check` for longer than `timeouts` allow is abandoned, and the ticket is tried again
        (`workers.bounded`).
        """

    @classmethod
    def explore(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Explored:
        """Sign in anew and return what the account can see. Raises what `connect` raises.

        `target` may be empty: nobody has chosen a project yet. Answers of the cloud go through `Explored.of`, which
        limits them. By default, this only signs in, as `connect` does.
        """
        cls.connect(account, target, timeouts, policy, check).close()
        return Explored()

    @abstractmethod
    def check(self, image: Image) -> None:
        """Check what can be checked before any byte is sent: name, quota, space.

        Called at a preflight, and in an attempt after `find` if anything is to be uploaded. It creates nothing.
        """

    def check_creation(self, image: Image) -> None:  # noqa: B027  # not every cloud can tell
        """Check at a preflight what an attempt finds out when it creates the image: rights, formats.

        It creates nothing. A cloud that can tell none of this without creating something checks nothing here.
        """

    @abstractmethod
    def find(self, ticket: TicketRef) -> CloudImage | None:
        """Return what an earlier attempt left in the cloud, complete or not. Condemn and delete what is of no use.

        If `upload` needs to know more about it, return a subclass of `CloudImage`.
        """

    @abstractmethod
    def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
        """Send the bytes to a new image, or to the incomplete one that `find` returned (`ticket.found`)."""

    @abstractmethod
    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        """Do what remains after the upload: sharing, tags. Must be repeatable."""

    @abstractmethod
    def delete(self, cloud_id: str, tags: Tags) -> None:
        """Delete all parts that a handle stands for, and return once the cloud confirms that they are gone.

        An object that does not exist is not an error. If the id was chosen by the plugin, it must also become
        impossible to create the object later: a request to create it may still be on its way. Whatever is created for
        that carries the `tags`, because its own deletion may fail.
        """

    def release(self, cloud_id: str, tags: Tags) -> None:  # noqa: B027  # most clouds protect nothing
        """Lift the protection that `finish` has set, so that the object can be deleted. Can be repeated.

        Called before `delete`, for a ticket that asked for the protection and will not be published: `finish` may have
        worked although the ticket failed, or was cancelled, a moment later.
        """

    def in_use(self, cloud_id: str) -> str | None:
        """Say what uses an image, such as servers that boot from it or a protection that somebody has set.

        Called before an older image of a lineage is hidden, renamed or withdrawn: one that is in use stays as it is.
        None if nothing uses it, or if the cloud does not report that.
        """
        return None

    def hide(self, cloud_id: str, tags: Tags) -> None:
        """Leave an image out of the cloud's usual lists; it can still be used. Can be repeated.

        This and `rename` are for older images of a lineage, and only if the platform offers it (`Platform.older`). An
        image that does not exist is not an error. One that does not carry the `tags` must not be changed.
        """
        raise NotImplementedError

    def rename(self, cloud_id: str, tags: Tags, name: str) -> None:
        """Give an image another name, as `hide` does."""
        raise NotImplementedError

    @abstractmethod
    def tagged(self, deployment: str) -> Sequence[Tagged]:
        """Return all objects of this account that carry the installation's id, whatever their state.

        Parts of one publication are one item, as old as the oldest part.
        """

    def tagged_by(self, tags: Tags) -> Sequence[Tagged]:
        """Return the objects of this account that carry these tags: those of one ticket.

        Override this if the cloud can search by tag: 100 withdrawals must not list everything 100 times.
        """
        return [each for each in self.tagged(tags.deployment) if each.ticket_uid == tags.ticket_uid]

    def keep_sign_in(self) -> None:  # noqa: B027  # keeping sign-ins is optional
        """Keep the sign-in for the next tickets of this account (`KeptSignIns`). Called after each call that worked."""

    def forget_sign_in(self) -> None:  # noqa: B027
        """Forget the sign-in. Called after each call that failed; then the next `connect` signs in anew."""

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Close connections."""
