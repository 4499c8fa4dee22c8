"""Select the wanted part of a list from the database, with the same result on SQLite and PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Double,
    Row,
    Select,
    String,
    and_,
    collate,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.types import TypeEngine

from publisher.core.listing import ListField, ListFieldKind, Listing, Page, Value, condition, known_field

Fields = Mapping[str, ListField[ColumnElement[Any]]]

NUMBER = "dbId"
"""The field that every list has. Lists are ordered by it by default."""

_TYPES: dict[type, type[TypeEngine[Any]]] = {str: String, int: BigInteger, float: Double, bool: Boolean}


def select_page(connection: Connection, query: Select[Any], fields: Fields, listing: Listing) -> Page[Row[Any]]:
    """Return the wanted rows of those that `query` selects. Raises `InvalidRequest`.

    To let callers filter a list, define a mapping of its fields that includes `dbId` (a computed field can be a
    `case`), and call this function instead of executing the query:

        _FIELDS = {"dbId": ListField(images.c.id, ListFieldKind.NUMBER), "name": ListField(images.c.name)}
        page = select_page(connection, select(*_COLUMNS).where(images.c.owner == owner), _FIELDS, listing)
    """
    terms = _Columns(connection.dialect.name)
    if listing.query:
        query = query.where(condition(listing.query, fields, terms))
    order = [terms.comparable(fields[NUMBER])]
    if listing.order_by:
        order.insert(0, terms.comparable(known_field(fields, listing.order_by, "orderBy")))
    # Rows without a value come first: by default the databases differ in this.
    ordered = query.order_by(
        *(each.desc().nulls_last() if listing.descending else each.asc().nulls_first() for each in order)
    )
    if listing.count is None and not listing.offset:
        rows = list(connection.execute(ordered))
        return Page(len(rows), rows)
    total = connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    return Page(total, list(connection.execute(ordered.limit(listing.count).offset(listing.offset))))


class _Columns:
    """Builds conditions on columns. Text is compared by code points: in any other order the databases differ."""

    def __init__(self, database: str) -> None:
        self._sqlite = database == "sqlite"

    def comparable(self, field: ListField[ColumnElement[Any]]) -> ColumnElement[Any]:
        if field.kind not in (ListFieldKind.TEXT, ListFieldKind.NAME):
            return field.source
        text = collate(field.source, "BINARY" if self._sqlite else "C")
        return func.lower(text) if field.kind is ListFieldKind.NAME else text

    def compare(
        self, field: ListField[ColumnElement[Any]], how: Callable[[Any, Any], Any], value: Value
    ) -> ColumnElement[bool]:
        # Use the type of the value, not of the column: the value may be a number that is too large for the column.
        found: ColumnElement[bool] = how(self.comparable(field), literal(value, _TYPES[type(value)]()))
        return found

    def match(self, field: ListField[ColumnElement[Any]], pattern: str) -> ColumnElement[bool]:
        # LIKE ignores case in SQLite but not in PostgreSQL.
        if self._sqlite:
            return self.comparable(field).bool_op("GLOB")(literal(pattern, String()))
        return self.comparable(field).like(_like(pattern), escape="/")

    def negate(self, condition: ColumnElement[bool]) -> ColumnElement[bool]:
        return not_(func.coalesce(condition, false()))

    def join(self, conditions: Sequence[ColumnElement[bool]], *, every: bool) -> ColumnElement[bool]:
        return (and_ if every else or_)(*conditions)


def _like(pattern: str) -> str:
    """Translate a GLOB pattern, in which `[*]` is an asterisk, to a LIKE pattern."""

    def translated(match: re.Match[str]) -> str:
        mark = match[0]
        return "%" if mark == "*" else mark[1] if mark.startswith("[") else f"/{mark}"

    return re.sub(r"\[.\]|[*%_/]", translated, pattern)
