"""Statements that are compiled once, for what each publish request and each progress update needs.

SQLAlchemy takes longer to prepare the execution of a statement than the database to execute it. Here, it compiles a
statement once for each database, from the same tables as all others, and then only hands it to the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import ARRAY, JSON, Boolean, Column, Connection, Dialect, Select, Table, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from publisher.store.database import run_on_driver

_Rows = Sequence[tuple[Any, ...]]
_Statement = Select[Any] | ReturningInsert[Any] | ReturningUpdate[Any]


class is_one_of(FunctionElement[Any]):  # noqa: N801  # an SQL condition, named as such
    """The condition that a column's value is in the list `:name`. The same text for any length of the list."""

    inherit_cache = True

    def __init__(self, column: Column[Any], name: str) -> None:
        super().__init__(column, bindparam(name, type_=JSON().with_variant(ARRAY(type(column.type)), "postgresql")))


@compiles(is_one_of, "postgresql")
def _postgresql_is_one_of(element: is_one_of, compiler: SQLCompiler, **options: Any) -> str:
    value, values = element.clauses
    return f"{compiler.process(value, **options)} = ANY({compiler.process(values, **options)})"


@compiles(is_one_of, "sqlite")
def _sqlite_is_one_of(element: is_one_of, compiler: SQLCompiler, **options: Any) -> str:
    value, values = element.clauses
    listed = f"SELECT value FROM json_each({compiler.process(values, **options)})"  # noqa: S608  # a parameter
    return f"{compiler.process(value, **options)} IN ({listed})"


class Prepared:
    """A statement that returns rows, and whose text does not depend on its parameters."""

    def __init__(self, statement: _Statement) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, **given: Any) -> _Rows:
        """Execute the statement with these parameters, and return the rows."""
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, dialect)
        rows = run_on_driver(connection, compiled.text, compiled.parameters(given), returns_rows=True)
        return [compiled.read(row) for row in rows] if compiled.is_converted else rows


class _Compiled:
    """A statement as one kind of database gets it."""

    def __init__(self, statement: _Statement, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self._order: list[str] | None = compiled.positiontup if dialect.positional else None
        self._constants = dict(compiled.params)
        to_driver = {name: _writer(bound, dialect) for name, bound in compiled.binds.items()}
        self._to_driver = {name: to for name, to in to_driver.items() if to and name in self._constants}
        # Values of the other types are read as the driver returns them.
        read = [(at, each.type) for at, each in enumerate(statement.exported_columns)]
        found = [(at, _reader(type, dialect)) for at, type in read if isinstance(type, JSON | Boolean)]
        self._from_driver = [(at, convert) for at, convert in found if convert]
        self.is_converted = bool(self._from_driver)

    def parameters(self, given: dict[str, Any]) -> tuple[Any, ...] | dict[str, Any]:
        """Return the parameters as the driver takes them."""
        values = self._constants | given
        for name, convert in self._to_driver.items():
            values[name] = convert(values[name])
        return values if self._order is None else tuple(values[name] for name in self._order)

    def read(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a row with the values of its columns' types."""
        values = list(row)
        for at, convert in self._from_driver:
            values[at] = convert(values[at])
        return tuple(values)


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], *returning: str, unless_there: bool = False
) -> _Rows:
    """Insert rows, all with the same columns, in one statement. Return these columns of each inserted row.

    With `unless_there`, rows with a key that is there already are left out.

    PostgreSQL gets all rows as one JSON document. So the statement is the same for any number of rows, and is parsed
    once for each connection; with a parameter for each value, it takes twice the time. To SQLite, JSON is the slower
    one. There, one statement for each row would also be slower: after each, it writes the index of the names.
    """
    if not rows:
        return []
    columns = tuple(rows[0])
    is_json = connection.dialect.name == "postgresql"
    text = _insert(table, columns, returning, unless_there, None if is_json else len(rows))
    if is_json:
        values = [json.dumps(rows, default=_hex)]
    else:
        values_of, converted = itemgetter(*columns), _converted(table, columns, connection.dialect)
        values = [
            value
            for row in rows
            for value in values_of({**row, **{name: convert(row[name]) for name, convert in converted}})
        ]
    return run_on_driver(connection, text, tuple(values), returns_rows=bool(returning))


def insert_into_several(connection: Connection, rows: Mapping[Table, Sequence[dict[str, Any]]]) -> None:
    """Insert rows into several tables: in one statement on PostgreSQL, where each statement is a round trip."""
    if connection.dialect.name != "postgresql":
        for table, of_table in rows.items():
            insert_rows(connection, table, of_table)
    elif given := {table: of_table for table, of_table in rows.items() if of_table}:
        *others, last = [_insert(table, tuple(of_table[0]), (), False, None) for table, of_table in given.items()]
        before = ", ".join(f"other_{at} AS ({text})" for at, text in enumerate(others))
        documents = tuple(json.dumps(of_table, default=_hex) for of_table in given.values())
        run_on_driver(connection, f"WITH {before} {last}" if before else last, documents)


@lru_cache(1000)
def _insert(
    table: Table, columns: tuple[str, ...], returning: tuple[str, ...], unless_there: bool, count: int | None
) -> str:
    """Return an INSERT of so many rows; None: of the rows of a JSON document."""
    names = ", ".join(columns)
    if count is None:
        rows = f"SELECT {names} FROM json_populate_recordset(NULL::{table.name}, CAST(%s AS json))"  # noqa: S608
    else:
        rows = "VALUES " + ", ".join([f"({', '.join('?' * len(columns))})"] * count)
    conflict = " ON CONFLICT DO NOTHING" if unless_there else ""
    wanted = f" RETURNING {', '.join(returning)}" if returning else ""
    return f"INSERT INTO {table.name} ({names}) {rows}{conflict}{wanted}"  # names of our own tables


_CONVERTED: dict[tuple[Table, tuple[str, ...]], list[tuple[str, Callable[[Any], Any]]]] = {}


def _converted(table: Table, columns: tuple[str, ...], dialect: Dialect) -> Sequence[tuple[str, Callable[[Any], Any]]]:
    """Return the columns whose values SQLite does not take as they are, each with the function that converts them."""
    found = _CONVERTED.get((table, columns))
    if found is None:
        not_taken = [name for name in columns if isinstance(table.c[name].type, JSON | Boolean)]
        writers = [(name, _writer(table.c[name], dialect)) for name in not_taken]
        found = _CONVERTED[table, columns] = [(name, convert) for name, convert in writers if convert]
    return found


def _writer(typed: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    return typed.type.dialect_impl(dialect).bind_processor(dialect)  # type: ignore[no-any-return]


def _reader(type: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    return type.dialect_impl(dialect).result_processor(dialect, None)


def _hex(value: object) -> str:
    """Return bytes as PostgreSQL reads them from a text."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} cannot be stored")
    return f"\\x{value.hex()}"
