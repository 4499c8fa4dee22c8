"""A ticket: its states, the transitions between them, and what it tells. Pure values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from publisher.core.image import Image

MIB = 1 << 20
_SECRET_LENGTH_MIN = 3
"""Characters: what is shorter would be found everywhere."""


class State(StrEnum):
    """Where a ticket stands. The last three are final."""

    QUEUED = "queued"
    PUBLISHING = "publishing"
    CANCELLING = "cancelling"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.PUBLISHED, State.FAILED, State.CANCELLED})

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.QUEUED, State.PUBLISHING),  # a worker claims it
        (State.QUEUED, State.CANCELLED),  # cancelled before any cloud was touched
        (
            State.QUEUED,
            State.CANCELLING,
        ),  # cancelled between two attempts: something may be left in the cloud
        (State.PUBLISHING, State.PUBLISHING),  # its lease ran out and another worker claims it
        (State.PUBLISHING, State.QUEUED),  # to be tried again
        (State.PUBLISHING, State.PUBLISHED),
        (State.PUBLISHING, State.FAILED),
        (State.PUBLISHING, State.CANCELLING),
        (State.CANCELLING, State.CANCELLING),  # the lease of the worker that cleans up ran out
        (State.CANCELLING, State.CANCELLED),
        (State.CANCELLING, State.FAILED),  # what was uploaded cannot be removed
        (State.FAILED, State.QUEUED),  # its owner has it tried again
        (State.CANCELLED, State.QUEUED),
    }
)
"""Every change of state that may happen. The store refuses any other."""


class Phase(StrEnum):
    """What a worker is doing with a ticket. For people; nothing is decided by it."""

    WAITING = "waiting"
    PREPARING = "preparing"
    AUTHENTICATING = "authenticating"
    UPLOADING = "uploading"
    VERIFYING = "verifying"
    FINISHING = "finishing"
    CLEANING = "cleaning"


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the image has been sent in this attempt. Bytes."""

    sent: int = 0
    total: int = 0

    @property
    def percentage(self) -> int:
        """0 to 100; 100 only once every byte is sent."""
        return min(100, self.sent * 100 // self.total) if self.total else 0


@dataclass(frozen=True, slots=True)
class CloudRef:
    """One object in a cloud that a ticket may own: written down before it is made, so that none can be forgotten."""

    cloud_id: str
    state: str = "planned"
    """`planned` (its creation was or will be asked for), `present` (the cloud confirmed it), `condemned` (its deletion
    was or will be asked for: nobody uses it any more, as that may happen late) or `gone`."""


@dataclass(frozen=True, slots=True)
class Account:
    """A cloud account as a ticket carries it. Secrets are apart from it, sealed; see `publisher.core.vault`."""

    platform: str
    fields: dict[str, Any] = field(default_factory=dict)
    """The wire contract's own elements of the platform's credAccount, without its secrets."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """Filled in a worker only."""

    def hide_secrets(self, words: str) -> str:
        """What a cloud says, without the secrets: it, or what is before it, may repeat what it got."""
        for secret in self.secrets.values():
            if len(secret) >= _SECRET_LENGTH_MIN:
                words = words.replace(secret, "***")
        return words


@dataclass(frozen=True, slots=True)
class Target:
    """Where in the cloud the image goes, and under which name: the platform's own elements of a publishImage."""

    platform: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One accepted publish request. Times are seconds since the epoch, by the database's clock."""

    id: int
    uid: str
    """Unique among all installations; the tag on each cloud object that belongs to this ticket."""
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
    """The stored account that was named, if one was. What is needed of it is copied: it may be gone."""
    downloads: int = 0
    """How many one-time keys for the download of its image were used up."""
    progressed: float | None = None
    """When `progress.sent` last grew in this attempt; None while nothing was sent."""
    accepted: float = 0.0
    """When it was made, or last tried again by its owner."""
    reason: str | None = None
    """Why it failed, or is to be tried again: one of `publisher.core.errors.Reason`."""
    request_id: str | None = None
    """The request that made it, as the logs name it."""
    traceparent: str | None = None
    """The trace that the request belongs to (W3C Trace Context)."""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def changed(self) -> float:
        """When anything of it last changed: its progress is written without touching `modified`."""
        return max(self.modified, self.progressed or 0.0)

    @property
    def message(self) -> str:
        """What is happening, in words for a person."""
        match self.state:
            case State.QUEUED if self.error:
                return f"Waiting to try again (attempt {self.attempt + 1}): {self.error}"
            case State.QUEUED:
                return "Queued"
            case State.PUBLISHED:
                return f"Published in {self.region}" if self.region else "Published"
            case State.FAILED:
                return "Failed"
            case State.CANCELLED:
                return "Cancelled"
            case State.CANCELLING:
                return "Cancelling: removing what was uploaded"
            case State.PUBLISHING if self.attempt > 1:
                return f"{self._phase_message()} (attempt {self.attempt})"
            case State.PUBLISHING:
                return self._phase_message()

    @property
    def region(self) -> str | None:
        """The region of the cloud that the image goes to; None while that is unknown, or where it has none."""
        # Where there is no region, an endpoint is what tells the place.
        return None if self.location is None or "://" in self.location else self.location

    def _phase_message(self) -> str:
        match self.phase:
            case Phase.AUTHENTICATING:
                return "Signing in to the cloud"
            case Phase.UPLOADING:
                sent, total = self.progress.sent // MIB, max(1, round(self.progress.total / MIB))
                return f"Uploading {sent} of {total} MiB" + (f" to {self.region}" if self.region else "")
            case Phase.VERIFYING:
                return "Verifying checksum"
            case Phase.FINISHING:
                return "Finishing: visibility and properties"
            case Phase.CLEANING:
                return "Removing what was uploaded"
            case _:
                return "Preparing"

    @property
    def upload_ends(self) -> float | None:
        """When the upload ends at its mean rate so far; None while that cannot be told.

        It follows from what is stored alone, not from when it is asked for: it changes only with the ticket.
        """
        uploading = self.state is State.PUBLISHING and self.phase is Phase.UPLOADING
        if not uploading or not self.started or not self.progressed or not self.progress.sent:
            return None
        elapsed = max(self.progressed - self.started, 1e-3)
        return self.progressed + (self.progress.total - self.progress.sent) * elapsed / self.progress.sent

    @property
    def bytes_per_second(self) -> float | None:
        """The mean rate of the upload, while it goes on or once it is published; None while that cannot be told."""
        going_on = self.state is State.PUBLISHING and self.phase is Phase.UPLOADING
        if not self.started or not self.progressed or not (going_on or self.state is State.PUBLISHED):
            return None
        return self.progress.sent / max(self.progressed - self.started, 1e-3) if self.progress.sent else None


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of the image had been sent at a moment of an attempt. One that was handed back, and does not count,
    has the number of the next: there `sent` begins anew."""

    attempt: int
    at: float
    sent: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a ticket's history."""

    at: float
    from_state: State | None
    to_state: State
    phase: Phase
    words: str


def image_of(ticket: Ticket, found: Image | None) -> Image | None:
    """Return `found`, the image that has the number of the ticket's image now, if it is that image.

    None if it is another image that got the number later.
    """
    if found is None or (found.owner, found.appliance_id) != (ticket.owner, ticket.appliance_id):
        return None
    return found if found.created <= ticket.created else None
