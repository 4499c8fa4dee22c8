"""`publisher config`: show the settings, and where each comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from publisher.cli.examples import examples
from publisher.cli.output import Json, print_json, print_table, say_warning
from publisher.core.settings import Settings
from publisher.core.settings_report import Source, in_force, table, unknown

EXAMPLES = examples("config", "config --changed", "config --json", "config --docs")


def config(
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not left at their defaults.")] = False,
    docs: Annotated[
        bool, typer.Option("--docs", help="Print the table of all settings in Markdown, as the documents have it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the settings in force, and where each comes from.

    Passwords in addresses are hidden. Variables that begin like settings and are none are warned about.
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
