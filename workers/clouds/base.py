"""The contract of a cloud plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

from publisher.core.image import Image
from publisher.core.ticket import Account, CloudRef, Target
from publisher.outbound.policy import OutboundPolicy
from workers.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a plugin waits for its cloud. Seconds."""

    connect_seconds: float = 10.0
    call_seconds: float = 60.0
    verify_seconds: float = 900.0

    @property
    def silent_seconds(self) -> float:
        """A method that has not called `check` for so long is stuck: within one request it may be silent."""
        return self.connect_seconds + 2 * self.call_seconds

    @property
    def verifying_seconds(self) -> float:
        """The same for `upload` and `finish`, in which the cloud takes an image over."""
        return self.verify_seconds + self.silent_seconds

    @property
    def longest_seconds(self) -> float:
        """No method takes longer, counted from the last byte of an image that it moved."""
        return self.verify_seconds + 10 * self.call_seconds


@dataclass(frozen=True, slots=True)
class CloudImage:
    """An image as the cloud tells it."""

    cloud_id: str
    complete: bool
    """All its bytes are there, and the cloud says that it can be used."""
    size: int | None = None
    """Bytes, as the cloud counted them."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Algorithm ("sha512", "sha256", "md5") to lower-case hex, of what the cloud received; empty if it tells none."""
    location: str | None = None
    """Where it is, for people: a region or an endpoint."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """An object in the cloud that says that it was made by an installation, for a ticket."""

    cloud_id: str
    ticket_uid: str
    age_seconds: float | None = None
    """Since the cloud made it, about; None where it does not tell."""


class Journal(Protocol):
    """The ticket's list of the cloud objects that it has made. Each method may raise `LeaseLost` or `Cancelled`."""

    def entries(self) -> Sequence[CloudRef]: ...

    def plan(self, cloud_id: str) -> None:
        """Write an object down before it is made."""

    def present(self, cloud_id: str) -> None:
        """The cloud has confirmed it."""

    def condemn(self, cloud_id: str) -> None:
        """Write down that an object is about to be deleted. No other attempt uses it from then on, as the deletion may
        come late: from a worker that was paused, or over a connection that stalled."""

    def gone(self, cloud_id: str) -> None:
        """The cloud has confirmed that it is not there, or no longer."""


@dataclass(frozen=True, slots=True)
class TicketRef:
    """What a plugin knows of the ticket it works for. Each cloud object carries `uid` and `deployment` as its tags."""

    uid: str
    deployment: str
    ticket_uri: str
    image_uri: str
    appliance_uri: str
    journal: Journal


class CloudPublisher(ABC):
    """One cloud account that images are published to.

    Methods raise `InvalidRequest` and `PermanentCloudError` for what another attempt would not mend, and
    `TransientCloudError` for what it might. Only the type decides. Their messages are shown to the caller: they say
    what to do, and never hold a secret. Every call to the cloud has a time-out.
    """

    platform: ClassVar[str]
    region: str | None = None
    """Where in the cloud its images go, once it is signed in to; None where the cloud has no regions, or tells none."""

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
        """Sign in. A wrong credential is a `PermanentCloudError`. Whatever address the account, or the cloud itself,
        names is connected to as `policy` allows: `policy.connect`, or a client of `workers.http_clients`.

        `check` is called by every method before each request, and while it waits: it breaks the method off by
        raising what is to be let pass, and later may do so no more, for the clean-up. A method that is not heard of for
        longer than `timeouts` allow is left to itself, and the ticket is tried again (`workers.bounded`)."""

    @abstractmethod
    def check(self, image: Image) -> None:
        """What can be told before any byte is sent: name, format, permissions, quota."""

    @abstractmethod
    def find(self, ticket: TicketRef) -> CloudImage | None:
        """What an earlier attempt left in the cloud, complete or not. What is of no use is condemned and
        deleted."""

    @abstractmethod
    def upload(self, image: Image, ticket: TicketRef, transfer: Transfer) -> CloudImage:
        """Make the image, or go on with the incomplete one that `find` told of, and send its bytes."""

    @abstractmethod
    def finish(self, uploaded: CloudImage, image: Image) -> CloudImage:
        """What remains once the bytes are there: sharing, tags. Repeatable."""

    @abstractmethod
    def delete(self, cloud_id: str) -> None:
        """Remove an object and return once the cloud confirms that it is gone. One that is not there is no error; where
        the id was chosen here, it can be made no more: a request for that may still be on its way."""

    @abstractmethod
    def tagged(self, deployment: str) -> Sequence[Tagged]:
        """All objects of this account that carry the installation's id, whatever their state."""

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Let go of connections."""
