"""Filtering, ordering and paging of lists.

A list describes its fields by a mapping from their names on the wire (`targetPlatform.name`) to the source of their
values: columns in the store (`publisher.store.list_queries`), or functions of an object for a list in memory (`page`
here). The same parameters select the same objects in the same order, whatever the list is made of.
"""

from __future__ import annotations

import glob
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from fnmatch import translate
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from publisher.core.errors import InvalidRequest
from publisher.core.fiql import Comparison, Expression, Joined

Source = TypeVar("Source")
Condition = TypeVar("Condition")
Item = TypeVar("Item")
Value: TypeAlias = str | int | float | bool

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "=lt=": operator.lt,
    "=le=": operator.le,
    "=gt=": operator.gt,
    "=ge=": operator.ge,
}
_NUMBER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER_MAX = (1 << 63) - 1
_SHOWN = 40
_HALF_A_MICROSECOND = 5e-7
_MILLISECOND = 1e-3


class ListFieldKind(Enum):
    """The type of a field, which decides what it can be compared with. The value is its description for callers."""

    TEXT = "text"
    NAME = "one of a few names"
    """ASCII; compared without regard to case."""
    NUMBER = "an integer"
    BOOLEAN = "true or false"
    TIME = "a dateTime with an offset, such as 2026-01-02T03:04:05.678Z (a '+' is written %2B in a URI)"
    """Seconds since the epoch. Compared in milliseconds, which is the precision of answers."""


@dataclass(frozen=True, slots=True)
class ListField(Generic[Source]):
    """A field that a list can be filtered and ordered by. `source` is where its value comes from."""

    source: Source
    kind: ListFieldKind = ListFieldKind.TEXT


@dataclass(frozen=True, slots=True)
class Listing:
    """Which part of a list is wanted. By default: everything, ordered by id.

    order_by: the name of a field. Objects with the same value, and all objects if this is None, are ordered by id.
    descending: reverse the order.
    count: maximum number of objects; None: unlimited.
    offset: number of objects to skip at the beginning.
    """

    query: Expression | None = None
    order_by: str | None = None
    descending: bool = False
    count: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list. `total` counts all matching objects, on this page or not."""

    total: int
    items: list[Item]


class Terms(Protocol[Source, Condition]):
    """Builds conditions. A field without a value satisfies no condition except a negated one."""

    def compare(self, field: ListField[Source], how: Callable[[Any, Any], Any], value: Value) -> Condition: ...

    def match(self, field: ListField[Source], pattern: str) -> Condition:
        """Match a text by a pattern in the syntax of SQLite's GLOB and `fnmatch`; for a NAME it is in lower case."""
        ...

    def negate(self, condition: Condition) -> Condition: ...

    def join(self, conditions: Sequence[Condition], *, every: bool) -> Condition: ...


def condition(
    expression: Expression, fields: Mapping[str, ListField[Source]], terms: Terms[Source, Condition]
) -> Condition:
    """Translate a query into a condition, by the given terms. Raises `InvalidRequest` if the fields do not allow it."""
    if isinstance(expression, Joined):
        return terms.join([condition(each, fields, terms) for each in expression.parts], every=expression.every)
    if expression.operator == "!=":
        return terms.negate(condition(replace(expression, operator="=="), fields, terms))
    field = known_field(fields, expression.selector, "query")
    if len(expression.pieces) > 1:
        return terms.match(field, _pattern(expression, field.kind))
    if field.kind is ListFieldKind.BOOLEAN and expression.operator != "==":
        raise InvalidRequest(f"{expression.selector} is true or false: it goes with == and != alone", field="query")
    value = _value(expression, field.kind)
    if field.kind is not ListFieldKind.TIME:
        return terms.compare(field, _OPERATORS[expression.operator], value)
    # Times are stored more precisely than answers show them: all times that look the same must be equal.
    earliest = float(value) - _HALF_A_MICROSECOND
    later = earliest + _MILLISECOND
    from_then_on, before_that = terms.compare(field, operator.ge, earliest), terms.compare(field, operator.lt, later)
    match expression.operator:
        case "==":
            return terms.join([from_then_on, before_that], every=True)
        case "=ge=":
            return from_then_on
        case "=le=":
            return before_that
        case "=gt=":
            return terms.compare(field, operator.ge, later)
        case _:
            return terms.compare(field, operator.lt, earliest)


def known_field(fields: Mapping[str, ListField[Source]], name: str, parameter: str) -> ListField[Source]:
    """Look up a field. Raises `InvalidRequest`, with the name of the parameter and a list of the known fields."""
    try:
        return fields[name]
    except KeyError:
        raise InvalidRequest(
            f"'{_shown(name)}' is no field of this list; its fields are {', '.join(fields)}", field=parameter
        ) from None


def page(
    items: Sequence[Item], fields: Mapping[str, ListField[Callable[[Item], Value | None]]], listing: Listing
) -> Page[Item]:
    """Select the wanted part of a list in memory, whose items are ordered by id. Raises `InvalidRequest`."""
    ordered = [*enumerate(items)]
    if listing.query:
        wanted = condition(listing.query, fields, _InMemory[Item]())
        ordered = [(number, item) for number, item in ordered if wanted(item)]
    if listing.order_by:
        by = known_field(fields, listing.order_by, "orderBy")

        def rank(entry: tuple[int, Item]) -> tuple[bool, Any, int]:
            value = _comparable(by, entry[1])
            return value is not None, value, entry[0]

        ordered.sort(key=rank)
    if listing.descending:
        ordered.reverse()
    end = None if listing.count is None else listing.offset + listing.count
    return Page(len(ordered), [item for _, item in ordered[listing.offset : end]])


class _InMemory(Generic[Item]):
    """Builds conditions as functions of an item."""

    def compare(
        self, field: ListField[Callable[[Item], Value | None]], how: Callable[[Any, Any], Any], value: Value
    ) -> Callable[[Item], bool]:
        def holds(item: Item) -> bool:
            found = _comparable(field, item)
            return found is not None and bool(how(found, value))

        return holds

    def match(self, field: ListField[Callable[[Item], Value | None]], pattern: str) -> Callable[[Item], bool]:
        matches = re.compile(translate(pattern)).match

        def holds(item: Item) -> bool:
            found = _comparable(field, item)
            return found is not None and matches(str(found)) is not None

        return holds

    def negate(self, condition: Callable[[Item], bool]) -> Callable[[Item], bool]:
        return lambda item: not condition(item)

    def join(self, conditions: Sequence[Callable[[Item], bool]], *, every: bool) -> Callable[[Item], bool]:
        joined = all if every else any
        return lambda item: joined(each(item) for each in conditions)


def _comparable(field: ListField[Callable[[Item], Value | None]], item: Item) -> Value | None:
    value = field.source(item)
    return value.lower() if field.kind is ListFieldKind.NAME and isinstance(value, str) else value


def _pattern(comparison: Comparison, kind: ListFieldKind) -> str:
    if kind not in (ListFieldKind.TEXT, ListFieldKind.NAME) or comparison.operator != "==":
        raise InvalidRequest(
            f"{comparison.selector} is compared with a '*': it stands for any text with == and != alone,"
            " and in no number, boolean or dateTime",
            field="query",
        )
    pattern = "*".join(glob.escape(piece) for piece in comparison.pieces)
    return pattern.lower() if kind is ListFieldKind.NAME else pattern


def _value(comparison: Comparison, kind: ListFieldKind) -> Value:
    (text,) = comparison.pieces
    match kind:
        case ListFieldKind.TEXT:
            return text
        case ListFieldKind.NAME:
            return text.lower()
        case ListFieldKind.BOOLEAN if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case ListFieldKind.NUMBER if _NUMBER.fullmatch(text) and abs(int(text)) <= _NUMBER_MAX:
            return int(text)
        case ListFieldKind.TIME if (moment := _moment(text)) is not None:
            return moment
    raise InvalidRequest(
        f"{comparison.selector} is {kind.value}, and cannot be compared with '{_shown(text)}'", field="query"
    )


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
