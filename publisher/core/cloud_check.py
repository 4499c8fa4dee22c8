"""Checks of a cloud account: what a worker is asked to try out, and what it found. Pure values, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from publisher.core.errors import Reason

CHECK_SECONDS_MAX = 30.0
"""How long a caller waits for the result of a check, from the request on."""
PLACES_MAX = 200
"""Maximum number of places of one kind that an account is shown: a cloud may list any number."""
_TEXT_MAX = 255


class CheckKind(StrEnum):
    """The kinds of checks."""

    PREFLIGHT = "preflight"
    """Whether a publish request would succeed, as far as this can be known before a byte is sent."""
    ACCOUNT = "account"
    """Whether a stored account can sign in, and what it can see."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a cloud that a request can name: a project, a region, a network."""

    id: str
    """The id that a request names it by."""
    name: str
    """The name that people know."""


@dataclass(frozen=True, slots=True)
class Explored:
    """The places that an account can see in its cloud. Use `of` for the answers of a cloud."""

    projects: tuple[Place, ...] = ()
    regions: tuple[Place, ...] = ()
    networks: tuple[Place, ...] = ()

    @classmethod
    def of(
        cls, *, projects: Iterable[Place] = (), regions: Iterable[Place] = (), networks: Iterable[Place] = ()
    ) -> Self:
        """Return the places that can be shown: sorted by name, and not more than `PLACES_MAX` of a kind."""
        return cls(_shown(projects), _shown(regions), _shown(networks))

    def places(self, kind: str) -> Sequence[Place]:
        """Return the places of a kind: `projects`, `regions` or `networks`."""
        found: Sequence[Place] = getattr(self, kind)
        return found

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        return cls(**{kind: tuple(Place(**each) for each in places) for kind, places in given.items()})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check."""

    ok: bool
    words: str
    """Says what works; or what is wrong, and how to correct it."""
    element: str | None = None
    """The element of the request that is at fault, if one is."""
    reason: Reason | None = None
    """Why it failed; None if it did not."""
    transient: bool = False
    """Whether the same check may succeed later, because the cloud did not answer."""
    explored: Explored | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        reason, explored = given["reason"], given["explored"]
        return cls(
            **{
                **given,
                "reason": Reason(reason) if reason else None,
                "explored": Explored.from_json(explored) if explored else None,
            }
        )


def _shown(places: Iterable[Place]) -> tuple[Place, ...]:
    usable = {each.id: each for each in places if _is_text(each.id) and _is_text(each.name)}
    return tuple(sorted(usable.values(), key=lambda each: (each.name, each.id)))[:PLACES_MAX]


def _is_text(text: str) -> bool:
    return 0 < len(text) <= _TEXT_MAX and text.isprintable()
