"""Statements that are compiled once, for what each publish request needs.

SQLAlchemy takes longer to prepare the execution of a statement than the database to execute it. Here, it compiles a
statement once for each database, from the same tables as all others, and then only hands it to the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ARRAY, JSON, Column, Connection, Dialect, Executable, Table, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from publisher.store.database import run_on_driver

_Rows = Sequence[tuple[Any, ...]]


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
    """A statement whose text does not depend on its parameters. It must not read JSON or booleans, which SQLite does
    not have: the rows are as the driver returns them."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {}

    def rows(self, connection: Connection, **given: Any) -> _Rows:
        """Execute the statement with these parameters, and return the rows."""
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = self._compile(dialect)
        text, parameters_of = self._compiled[dialect.name]
        return run_on_driver(connection, text, parameters_of(given), returns_rows=True)

    def _compile(self, dialect: Dialect) -> tuple[str, Callable[[dict[str, Any]], Any]]:
        """Return the text of the statement, and a function that makes the driver's parameters from those given."""
        compiled: Any = self._statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        constants = dict(compiled.params)
        processors = {name: _processor(bound, dialect) for name, bound in compiled.binds.items() if name in constants}
        converted = {name: processor for name, processor in processors.items() if processor}

        def parameters_of(given: dict[str, Any]) -> Any:
            values = constants | given
            for name, processor in converted.items():
                values[name] = processor(values[name])
            return tuple(values[name] for name in compiled.positiontup) if dialect.positional else values

        return str(compiled), parameters_of


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
        converted = _converted(table, columns, connection.dialect)
        values = [convert(row[name]) if convert else row[name] for row in rows for name, convert in converted]
    return run_on_driver(connection, text, tuple(values), returns_rows=bool(returning))


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


_CONVERTED: dict[tuple[Table, tuple[str, ...]], list[tuple[str, Callable[[Any], Any] | None]]] = {}


def _converted(
    table: Table, columns: tuple[str, ...], dialect: Dialect
) -> Sequence[tuple[str, Callable[[Any], Any] | None]]:
    """Return the columns, each with the function that makes SQLite's value; None: SQLite takes it as it is."""
    found = _CONVERTED.get((table, columns))
    if found is None:
        found = _CONVERTED[table, columns] = [(name, _processor(table.c[name], dialect)) for name in columns]
    return found


def _processor(typed: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    processor: Callable[[Any], Any] | None = typed.type.dialect_impl(dialect).bind_processor(dialect)
    return processor


def _hex(value: object) -> str:
    """Return bytes as PostgreSQL reads them from a text."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} cannot be stored")
    return f"\\x{value.hex()}"
