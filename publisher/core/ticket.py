"""A ticket: its states, the transitions between them, its derived values and its URIs. Pure values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from publisher.core.errors import own
from publisher.core.image import Image, appliance_uri, image_uri
from publisher.core.names import NAME_MAX

MIB = 1 << 20
_SECRET_LENGTH_MIN = 3
"""In characters. A shorter secret would match everywhere."""


class State(StrEnum):
    """The state of a ticket. The last four are final."""

    QUEUED = "queued"
    PUBLISHING = "publishing"
    CANCELLING = "cancelling"
    WITHDRAWING = "withdrawing"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"


FINAL = frozenset({State.PUBLISHED, State.FAILED, State.CANCELLED, State.WITHDRAWN})
HELD = (State.PUBLISHING, State.CANCELLING, State.WITHDRAWING)
"""The states in which a worker holds the ticket, or should."""
DONE_WITH_IMAGE = (*sorted(FINAL), State.WITHDRAWING)
"""The states in which a ticket does not need the file of its image any more."""
_NOT_COMPLETE = frozenset({State.QUEUED, State.PUBLISHING, State.CANCELLING, State.FAILED, State.CANCELLED})
"""States in which the cloud has not answered that the image is complete."""
_PERCENTAGE_BEFORE = 99
"""The highest percentage in these states."""

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.QUEUED, State.PUBLISHING),  # a worker claims it
        (State.QUEUED, State.CANCELLED),  # cancelled before it touched any cloud
        (
            State.QUEUED,
            State.CANCELLING,
        ),  # cancelled between two attempts: objects may be left in the cloud
        (State.PUBLISHING, State.PUBLISHING),  # its lease expired and another worker claims it
        (State.PUBLISHING, State.QUEUED),  # will be retried
        (State.PUBLISHING, State.PUBLISHED),
        (State.PUBLISHING, State.FAILED),
        (State.PUBLISHING, State.CANCELLING),
        (State.CANCELLING, State.CANCELLING),  # the lease of the worker that cleans up expired
        (State.CANCELLING, State.CANCELLED),
        (State.CANCELLING, State.FAILED),  # what was uploaded cannot be deleted
        (State.FAILED, State.QUEUED),  # its owner retries it
        (State.CANCELLED, State.QUEUED),
        (State.PUBLISHED, State.WITHDRAWING),  # its owner withdraws it
        (State.WITHDRAWING, State.WITHDRAWING),  # a worker claims it
        (State.WITHDRAWING, State.WITHDRAWN),
        (State.WITHDRAWING, State.PUBLISHED),  # the image cannot be deleted
    }
)
"""Every allowed change of state. The store refuses any other."""


class Older(StrEnum):
    """What happens to the older images of a lineage when a new one is published."""

    LEAVE = "leave"
    HIDE = "hide"
    RENAME = "rename"
    """Their names get the time at which they were published."""
    WITHDRAW = "withdraw"
    """Those beyond the newest `keep` images are withdrawn."""


_RETIRED = {Older.HIDE: "hidden", Older.RENAME: "renamed"}


class Phase(StrEnum):
    """The work that a worker is doing on a ticket. For display only: no decision depends on it."""

    WAITING = "waiting"
    PREPARING = "preparing"
    AUTHENTICATING = "authenticating"
    CONVERTING = "converting"
    UPLOADING = "uploading"
    VERIFYING = "verifying"
    FINISHING = "finishing"


def mean_rate(sent: int, seconds: float) -> float | None:
    """Return the mean rate of an upload in bytes per second; None if no time has passed."""
    return sent / seconds if seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the image has been sent in this attempt, in bytes."""

    sent: int = 0
    total: int = 0

    @property
    def percentage(self) -> int:
        """0 to 100; 100 only once every byte is sent."""
        return min(100, self.sent * 100 // self.total) if self.total else 0


@dataclass(frozen=True, slots=True)
class CloudRef:
    """A journal entry: one cloud object that a ticket may own. Written before it is created, so none is forgotten."""

    cloud_id: str
    state: str = "planned"
    """`planned` (its creation was or will be requested), `present` (the cloud confirmed it), `condemned` (its deletion
    was or will be requested; as that may happen late, nobody uses it any more) or `gone`."""
    created: float = field(default=0.0, compare=False)
    modified: float = field(default=0.0, compare=False)
    """Times of the entry, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Account:
    """A cloud account as part of a ticket. Its secrets are kept apart, sealed; see `publisher.core.vault`."""

    platform: str
    fields: dict[str, Any] = field(default_factory=dict)
    """The elements of the platform's credAccount in the wire contract, without its secrets."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """Filled only in a worker."""

    def hide_secrets(self, words: str) -> str:
        """Remove the secrets from a cloud's message: the cloud, or a proxy before it, may repeat what it received."""
        for secret in self.secrets.values():
            if len(secret) >= _SECRET_LENGTH_MIN:
                words = words.replace(secret, "***")
        return words


@dataclass(frozen=True, slots=True)
class Target:
    """The place and the name of an image in the cloud: the platform's own elements of a publishImage."""

    platform: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One accepted publish request. Times are seconds since the epoch, by the database's clock."""

    id: int
    uid: str
    """Unique across all installations. Each cloud object of this ticket is tagged with it."""
    owner: str
    appliance_id: int
    image_id: int
    platform: str
    account: dict[str, Any] = field(repr=False)
    sealed_secrets: bytes | None = field(repr=False)
    target: dict[str, Any] = field(repr=False)
    name: str
    state: State
    phase: Phase
    progress: Progress
    attempt: int
    cloud_id: str | None
    location: str | None
    error: str | None
    error_detail: str | None
    created: float
    modified: float
    started: float | None
    finished: float | None
    not_before: float
    lease_token: int
    worker: str | None
    account_id: int | None = None
    """The stored account that the request named, if any. The ticket has its own copy, so the account may be gone."""
    downloads: int = 0
    """How many one-time download keys for its image were used."""
    progressed: float | None = None
    """When `progress.sent` last grew in this attempt; None if nothing has been sent."""
    accepted: float = 0.0
    """When it was created, or last retried by its owner."""
    reason: str | None = None
    """Why it failed or will be retried: one of `publisher.core.errors.Reason`."""
    request_id: str | None = None
    """Id of the request that created it, as in the logs."""
    traceparent: str | None = None
    """The trace of that request (W3C Trace Context)."""
    failure: str | None = None
    """Why it fails as soon as its leftovers are deleted; None if it has not failed yet."""
    withdrawal: float | None = None
    """When its withdrawal, or a change because a newer image replaces it, was last requested; None if it never was."""
    expires: float | None = None
    """When the service withdraws the image; None if it does not."""
    lineage: str | None = None
    """The lineage that the image belongs to: a name of its owner's choice."""
    keep: int | None = None
    """How many images of the lineage stay published, at least 1."""
    older: str | None = None
    """What happens to older images of the lineage when this one is published: one of `Older`."""
    retire: str | None = None
    """What a worker must still do with the published image because a newer one of its lineage replaces it: an `Older`.
    `withdraw` only while the ticket is being withdrawn."""
    retired: str | None = None
    """What was done with it for that reason last: `hide` or `rename`."""
    shown_id: str | None = None
    """The cloud's own id of the image, if that is not `cloud_id`, the handle that stands for all its parts."""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def counts_from(self) -> float:
        """When its deadline begins: when it was accepted, or when its withdrawal or retirement was requested."""
        changes = self.state in (State.WITHDRAWING, State.WITHDRAWN) or self.retire is not None
        return self.withdrawal if changes and self.withdrawal else self.accepted

    @property
    def id_in_cloud(self) -> str | None:
        """The id of the image for people and for `cloudId`."""
        return shown_cloud_id(self.cloud_id, self.shown_id)

    @property
    def changed(self) -> float:
        """When anything in it last changed. Progress updates do not touch `modified`."""
        return max(self.modified, self.progressed or 0.0)

    @property
    def percentage(self) -> int:
        """0 to 100; 100 only once the cloud has answered that the image is complete."""
        sent = self.progress.percentage
        return min(sent, _PERCENTAGE_BEFORE) if self.state in _NOT_COMPLETE else sent

    @property
    def bar_bytes(self) -> int:
        """How much of the image a progress bar shows as done, in bytes: all only if `percentage` may be 100."""
        sent, total = self.progress.sent, self.progress.total
        return min(sent, total * _PERCENTAGE_BEFORE // 100) if self.state in _NOT_COMPLETE else sent

    @property
    def message(self) -> str:
        """The current activity, as text for people."""
        match self.state:
            case State.QUEUED if self.error:
                return f"Waiting to try again (attempt {self.attempt + 1}): {self.error}"
            case State.QUEUED:
                return "Queued"
            case State.PUBLISHED:
                words = f"Published in {self.region}" if self.region else "Published"
                if self.not_withdrawn:
                    return f"{words}; {self.not_withdrawn}"
                return f"{words}; {_RETIRED[Older(self.retired)]}: a newer image replaces it" if self.retired else words
            case State.FAILED:
                return "Failed"
            case State.CANCELLED:
                return "Cancelled"
            case State.CANCELLING:
                return "Cancelling: removing what was uploaded"
            case State.WITHDRAWING if self.error:
                return f"Withdrawing; will be tried again: {self.error}"
            case State.WITHDRAWING:
                return "Withdrawing: removing the image from the cloud"
            case State.WITHDRAWN:
                return "Withdrawn: the image is no longer in the cloud"
            case State.PUBLISHING if self.attempt > 1:
                return f"{self._phase_message()} (attempt {self.attempt})"
            case State.PUBLISHING:
                return self._phase_message()

    @property
    def not_withdrawn(self) -> str | None:
        """Why the image is published as before after a request to withdraw, hide or rename it; None without one."""
        return self.error if self.state is State.PUBLISHED and self.withdrawal else None

    @property
    def dated_name(self) -> str:
        """The name of the image once a newer one replaces it: with the time at which it was published, in UTC."""
        at = f"-{datetime.fromtimestamp(self.finished or self.accepted, UTC):%Y-%m-%d-%H%M%S}"
        return self.name[: NAME_MAX - len(at)] + at

    @property
    def region(self) -> str | None:
        """The region of the cloud that the image goes to; None while it is unknown or if the cloud has none."""
        # Without a region, `location` is the URL of an endpoint.
        return None if self.location is None or "://" in self.location else self.location

    def _phase_message(self) -> str:
        match self.phase:
            case Phase.AUTHENTICATING:
                return "Signing in to the cloud"
            case Phase.CONVERTING:
                return "Converting the image for the cloud"
            case Phase.UPLOADING:
                sent, total = self.progress.sent // MIB, max(1, round(self.progress.total / MIB))
                return f"Uploading {sent} of {total} MiB" + (f" to {self.region}" if self.region else "")
            case Phase.VERIFYING:
                return "Verifying checksum"
            case Phase.FINISHING:
                return "Finishing: visibility and properties"
            case _:
                return "Preparing"

    @property
    def upload_ends(self) -> float | None:
        """When the upload will end at its mean rate so far; None while unknown.

        Computed only from stored values, not from the current time, so it changes only when the ticket does.
        """
        rate = self.bytes_per_second
        if not self._uploading or not rate or not self.progressed:
            return None
        return self.progressed + (self.progress.total - self.progress.sent) / rate

    @property
    def bytes_per_second(self) -> float | None:
        """The mean rate of the upload, while it runs or after it was published; None while unknown."""
        if not self.started or not self.progressed or not (self._uploading or self.state is State.PUBLISHED):
            return None
        return mean_rate(self.progress.sent, max(self.progressed - self.started, 1e-3)) if self.progress.sent else None

    @property
    def _uploading(self) -> bool:
        return self.state is State.PUBLISHING and self.phase is Phase.UPLOADING


def shown_cloud_id(cloud_id: str | None, shown_id: str | None) -> str | None:
    """Return the cloud's own id of an image, or the handle if the cloud has no other; None if nothing is there."""
    return cloud_id and (shown_id or cloud_id)


def ticket_uri(login: str, appliance_id: int, image_id: int, ticket_id: int) -> str:
    return f"{image_uri(login, appliance_id, image_id)}/pimages/{ticket_id}"


def ticket_download_uri(login: str, appliance_id: int, ticket_id: int, key: str) -> str:
    """Return the URI to download the published image from. `key` is a one-time key that replaces the login."""
    return f"{appliance_uri(login, appliance_id)}/pimages/{ticket_id}/downloads?downloadId={key}"


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of the image had been sent at one moment of an attempt, in bytes.

    An attempt that a worker handed back does not count: the next one has the same number, and its `sent` restarts.
    """

    attempt: int
    at: float
    sent: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of a ticket's history."""

    at: float
    from_state: State | None
    to_state: State
    phase: Phase
    words: str


def image_of(ticket: Ticket, found: Image | None) -> Image | None:
    """Return `found`, the image that has the number of the ticket's image now, if it is that image.

    None if it is another image that got the number later.
    """
    mine = own(found, ticket.owner, appliance_id=ticket.appliance_id)
    return mine if mine and mine.created <= ticket.created else None
