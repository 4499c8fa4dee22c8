"""`publisher config`: show the settings and the source of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from publisher.cli.command import Json, examples, print_json, print_table, say_warning
from publisher.core.settings import Settings
from publisher.core.settings_report import Source, in_force, table, unknown

commands = typer.Typer()


@commands.command(epilog=examples("config", "config --changed", "config --json", "config --docs"))
def config(
    changed: Annotated[bool, typer.Option("--changed", help="Leave out settings that use their defaults.")] = False,
    docs: Annotated[
        bool, typer.Option("--docs", help="Print a Markdown table of all settings, as in the documentation.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the settings in force and the source of each.

    Passwords in URLs are hidden. Variables that look like settings but are not cause a warning.
    """
    if docs:
        typer.echo(table(), nl=False)
        return
    shown = [each for each in in_force(Settings.from_environment()) if not changed or each.source is not Source.DEFAULT]
    wrong = unknown()
    if as_json:
        print_json({"settings": [asdict(each) for each in shown], "unknown": [asdict(each) for each in wrong]})
        return
    print_table(["Variable", "Value", "From"], [[each.variable, each.value, each.source] for each in shown])
    for each in wrong:
        say_warning(each.message)
