"""Report the elements of a request's body that the schema does not have: misspelt, misplaced or made up.

A body may have thousands of them. Some are reported by name, and the others are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from publisher.core.errors import UnknownElement
from publisher.intake.wire.schema import TYPES, concrete_type, root_field
from publisher.platforms.platform import TYPE_KEY, Kind, Platform

REPORTED_MAX = 10
"""Number of elements that are reported by name."""
_SHOWN_LENGTH_MAX = 80
_COMPARED_LENGTH_MAX = 40
"""Characters of the longest name that is compared with the known ones. None of these is as long."""
_SIMILAR = 0.75
"""The least similarity (1: equal) of names that may be meant."""
_KEPT_MAX = 64

UNUSED: Mapping[str, frozenset[str]] = {
    "image": frozenset({"applianceUri"}),
    "imageFormat": frozenset({"access", "active", "preselected", "uri"}),
    "targetFormat": frozenset(
        {"logo", "category", "targetPlatformsUri", "targetPlatformsUriList"}
        | {"credInfos", "imageInfos", "publishInfos"}
    ),
    "targetPlatform": frozenset({"logo", "targetFormatsUri", "targetFormatsUriList", "accountInfos"}),
    # Earlier editions of the API have it, and clients still send it.
    "PublishImageAws": frozenset({"bucket"}),
}
"""Elements of the UForge API that this service has no use for, by type. They are known, so they are not reported."""
_UNUSED_TYPES = frozenset({"installProfile", "instance"})
"""Types of the UForge API with dozens of elements, of which this service uses none."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An unknown element: its path and name, and the type of the object that it is in, with the known names."""

    path: str
    name: str
    type: str
    known: Collection[str]


class UnknownElements:
    """Collects the unknown elements of one body."""

    def __init__(self) -> None:
        self.count = 0
        """Number of unknown elements."""
        self._first: list[_Found] = []
        self._root = ""
        self._platform: Platform | None = None

    def begin(self, root: str, platform: Platform | None) -> None:
        """Begin with an empty collection. Where a misplaced element belongs depends on the document that is read."""
        self.count = 0
        self._first.clear()
        self._root, self._platform = root, platform

    def note(self, path: str, given: Iterable[str], type_name: str, known: Collection[str]) -> None:
        """Collect those of the `given` elements of the object at `path` that its type does not have."""
        if type_name in _UNUSED_TYPES:
            return
        unused = UNUSED.get(type_name, frozenset())
        for name in given:
            if name in known or name in unused or name == TYPE_KEY:
                continue
            self.count += 1
            if len(self._first) < REPORTED_MAX:
                self._first.append(_Found(path, name, type_name, known))

    def warnings(self) -> list[str]:
        """Return a text for each, and at the end how many more there are."""
        texts = [f"{_path(each)}: {self._words(each)}" for each in self._first]
        more = self.count - len(texts)
        return [*texts, f"{more} more unknown {_elements(more)}"] if more else texts

    def error(self) -> UnknownElement:
        """Return the error for a caller who wants none of them. It describes the first."""
        first, more = self._first[0], self.count - 1
        words = self._words(first)
        return UnknownElement(f"{words} ({more} more unknown {_elements(more)})" if more else words, field=_path(first))

    def _words(self, found: _Found) -> str:
        missing = f"{found.type} has no such element"
        if place := _places(self._root, self._platform).get(found.name):
            return f"{missing}; it belongs in {place}"
        if nearest := _nearest(found.name, found.known):
            return f"{missing}; did you mean {nearest}?"
        return missing


def _path(found: _Found) -> str:
    """Return the path of an element, with its name as it can be shown. The name is the caller's, and may be anything.

    In XML it begins with the namespace in braces if that is a foreign one.
    """
    name = found.name if len(found.name) <= _SHOWN_LENGTH_MAX else f"{found.name[:_SHOWN_LENGTH_MAX]}…"
    name = name if name.isprintable() else ascii(name)
    return f"{found.path}.{name}" if found.path else name


def _elements(count: int) -> str:
    return "element" if count == 1 else "elements"


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is most similar, in upper or lower case; None if none is similar."""
    if len(name) > _COMPARED_LENGTH_MAX:
        return None
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=_SIMILAR)
    return by_lower[found[0]] if found else None


@lru_cache(_KEPT_MAX)
def _places(root: str, platform: Platform | None) -> Mapping[str, str]:
    """Return the elements that have a single place in such a document: by name, the path of what they are in."""
    places: dict[str, set[str]] = {}
    waiting = [("", root_field(root))]
    while waiting:
        path, around = waiting.pop()
        name = concrete_type(around.type, platform) if around.kind is Kind.POLYMORPHIC else around.type
        for field in TYPES[name].fields:
            place = f"{path}.{field.name}" if path else field.name
            places.setdefault(field.name, set()).add(path or root)
            if field.item is not None:
                places.setdefault(field.item.name, set()).add(place)
            elif field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
                waiting.append((place, field))
    return {name: next(iter(found)) for name, found in places.items() if len(found) == 1}
