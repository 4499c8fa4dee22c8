"""Print output: for people on a terminal, for scripts as JSON."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from publisher.core.errors import InvalidRequest

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


class _CurrentStream(Console):
    """A console that lets the caller handle a reader that is gone; Rich itself would end the process with 1."""

    def on_broken_pipe(self) -> None:
        raise  # Rich calls this while it handles the error


out = _CurrentStream(highlight=False)
err = _CurrentStream(stderr=True, highlight=False)


def say(words: str, *, console: Console = out) -> None:
    """Print one line as it is: unwrapped, nothing in it read as markup."""
    console.print(Text(words), soft_wrap=True)


def say_error(words: str) -> None:
    err.print(Text.assemble(("Error: ", "bold red"), words), soft_wrap=True)


def say_warning(words: str) -> None:
    err.print(Text.assemble(("Warning: ", "yellow"), words), soft_wrap=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed, unless `yes`.

    Raises `typer.Exit` if the answer is no, and `InvalidRequest` if there is no terminal to ask at.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest("there is no terminal to ask for confirmation at; use --yes")
    if not typer.confirm(question, err=True):
        say("Nothing was removed", console=err)
        raise typer.Exit(1)


def snake_case(name: str) -> str:
    """Return an element of the HTTP API (`keystoneUrl`) as a key of this command's JSON (`keystone_url`)."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def print_json(value: Any) -> None:
    """Print an object whose keys are stable; its times are ISO 8601 (see `iso`)."""
    typer.echo(json.dumps(value, indent=2))


def iso(seconds: float | None) -> str | None:
    """Return a time in seconds since the epoch as ISO 8601, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def mebibytes(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = round(seconds)
    counts = []
    for unit, size in units:
        count, whole = divmod(whole, size)
        counts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in counts[first : first + 2] if count) or "0 s"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on a terminal.

    Elsewhere, print tab-separated lines without a heading, for other programs to read.
    """
    if not out.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))  # Rich would replace the tabs by spaces
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)
