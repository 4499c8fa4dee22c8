"""The promise: every accepted ticket ends in a true final state. A published ticket has exactly one image in the
cloud, with the right content. A ticket with another final state has none."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from publisher.core.ticket import State, Ticket

_TICKET = "publisher_ticket"


@dataclass
class Verdict:
    """Each entry describes one ticket or image that breaks the promise."""

    lost: list[str] = field(default_factory=list)
    """Promised tickets that are not in the store, published ones without the right image, and wrong statuses."""
    doubled: list[str] = field(default_factory=list)
    """Published tickets with more than one image."""
    leaked: list[str] = field(default_factory=list)
    """Images without a published ticket."""
    stuck: list[str] = field(default_factory=list)
    """Tickets that have not ended."""
    tickets: set[int] = field(default_factory=set)
    """Numbers of the tickets concerned."""

    @property
    def kept(self) -> bool:
        return not (self.lost or self.doubled or self.leaked or self.stuck)


@dataclass(frozen=True)
class Registered:
    """Size and hashes of a registered file, computed again from the file."""

    size: int
    sha256: str
    sha512: str

    @classmethod
    def of(cls, file: Path) -> Registered:
        content = file.read_bytes()
        return cls(len(content), hashlib.sha256(content).hexdigest(), hashlib.sha512(content).hexdigest())


def judge(
    tickets: Iterable[Ticket],
    promised: Iterable[int],
    images: Iterable[Mapping[str, Any]],
    registered: Mapping[int, Registered],
    content: Callable[[str], bytes],
) -> Verdict:
    """Compare tickets and images. `images` are all images of this installation in the cloud, `registered` is by image
    id, and `content` reads an image's bytes from the cloud."""
    verdict = Verdict()
    known = {ticket.uid: ticket for ticket in tickets}
    by_ticket: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for image in images:
        by_ticket[str(image.get(_TICKET))].append(image)

    def note(where: list[str], ticket: Ticket, words: str) -> None:
        where.append(f"ticket {ticket.id} ({ticket.name}, {ticket.state}, attempt {ticket.attempt}): {words}")
        verdict.tickets.add(ticket.id)

    for id in sorted(set(promised) - {ticket.id for ticket in known.values()}):
        verdict.lost.append(f"ticket {id} was promised by a 201, and is not in the store")
    for ticket in known.values():
        own = by_ticket.pop(ticket.uid, [])
        ids = ", ".join(str(image["id"]) for image in own)
        if not ticket.final:
            note(verdict.stuck, ticket, ticket.message)
        elif ticket.state is not State.PUBLISHED:
            if own:
                note(verdict.leaked, ticket, f"{ids} in the cloud")
        elif not own:
            note(verdict.lost, ticket, f"{ticket.cloud_id} is not in the cloud")
        elif len(own) > 1:
            note(verdict.doubled, ticket, f"{ids} in the cloud")
        elif wrong := _wrong(ticket, own[0], registered[ticket.image_id], content):
            note(verdict.lost, ticket, wrong)
    for uid, own in by_ticket.items():
        verdict.leaked += [f"image {image['id']} of ticket {uid}, which is not in the store" for image in own]
    return verdict


def _wrong(ticket: Ticket, image: Mapping[str, Any], right: Registered, content: Callable[[str], bytes]) -> str | None:
    """Return the fault of the only image of a published ticket, or None."""
    told = {
        "id": (image["id"], ticket.cloud_id),
        "status": (image["status"], "active"),
        "size": (image["size"], right.size),
        "os_hash_value": (image.get("os_hash_value"), right.sha512),
        "publisher_sha256": (image.get("publisher_sha256"), right.sha256),
    }
    for name, (found, wanted) in told.items():
        if found != wanted:
            return f"{name} is {found} and not {wanted}"
    if hashlib.sha256(content(str(image["id"]))).hexdigest() != right.sha256:
        return "the bytes in the cloud are not those that were registered"
    return None


def unexpected(
    tickets: Iterable[Ticket],
    to_be_cancelled: Collection[int],
    broken_id: int,
    to_be_withdrawn: Collection[int] = (),
) -> list[str]:
    """Return the outcomes that nothing explains. Tickets of the image `broken_id`, whose file has changed, must fail,
    and no others. Only images that a caller withdraws, that expire or that belong to a lineage may be withdrawn."""

    def may_be(ticket: Ticket) -> set[State]:
        if ticket.id in to_be_withdrawn:
            return {State.WITHDRAWN, State.CANCELLED}  # cancelled if it was not published yet
        if ticket.expires is not None:
            return {State.WITHDRAWN}
        ends = {State.FAILED if ticket.image_id == broken_id else State.PUBLISHED}
        if ticket.id in to_be_cancelled:
            ends.add(State.CANCELLED)
        if ticket.lineage is not None:
            ends.add(State.WITHDRAWN)  # see `lineages`
        return ends

    found = []
    names: Counter[str] = Counter()
    for ticket in tickets:
        names[ticket.name] += 1
        if ticket.final and ticket.state not in may_be(ticket):
            why = ticket.error or "without an error"
            found.append(f"ticket {ticket.id} ({ticket.name}) is {ticket.state}: {why}")
        elif ticket.expires and ticket.withdrawal and ticket.withdrawal < ticket.expires:
            found.append(f"ticket {ticket.id} ({ticket.name}) was withdrawn before it expired")
    return found + [f"{count} tickets for the one order {name}" for name, count in names.items() if count > 1]


def lineages(tickets: Iterable[Ticket], published: Mapping[int, float]) -> list[str]:
    """Return how lineages whose older images are withdrawn differ from what was promised.

    Each ends with the newest `keep` images, and none was withdrawn before so many newer ones were published.
    `published` says when each ticket was. All tickets of a lineage have the same `keep`.
    """
    by_lineage: dict[str, list[Ticket]] = defaultdict(list)
    for ticket in tickets:
        if ticket.lineage and ticket.keep and ticket.id in published:
            by_lineage[ticket.lineage].append(ticket)
    found = []
    for name, own in by_lineage.items():
        keep = own[0].keep or 0
        newest = {ticket.id for ticket in sorted(own, key=lambda each: each.id)[-keep:]}
        there = {ticket.id for ticket in own if ticket.state is State.PUBLISHED}
        if there != newest:
            found.append(f"lineage {name} has the images of tickets {sorted(there)}, and not {sorted(newest)}")
        for ticket in own:
            at = ticket.withdrawal
            newer = [each for each in own if each.id > ticket.id and at is not None and published[each.id] <= at]
            if at is not None and len(newer) < keep:
                found.append(f"ticket {ticket.id} was withdrawn when {name} had {len(newer)} newer images")
    return found


def told_otherwise(ticket: Ticket, status: Mapping[str, Any]) -> str | None:
    """Return how the status that callers get differs from the ticket's final state, or None."""
    ends = {
        State.PUBLISHED: (True, False, False, True),
        State.FAILED: (False, True, False, False),
        State.CANCELLED: (False, False, True, False),
        State.WITHDRAWN: (True, False, False, False),
    }
    found = tuple(status[name] for name in ("complete", "error", "cancelled", "published"))
    if ticket.final and found != ends[ticket.state]:
        return f"callers are told (complete, error, cancelled, published) = {found}"
    return None


def outcomes(tickets: Iterable[Ticket]) -> Counter[str]:
    return Counter(str(ticket.state) for ticket in tickets)
