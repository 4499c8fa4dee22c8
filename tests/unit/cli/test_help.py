"""Every command has complete help, and every command that only reads can print JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from publisher.cli.main import app

READS = {
    *("status", "logs", "top", "config", "doctor", "tickets list", "images list", "appliances list", "accounts list"),
    *("users list", "roles list", "fleet list", "audit list", "devcloud env", "devcloud status"),
}
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join([*names, name]), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_has_description_example_and_parameters(name: str) -> None:
    command = COMMANDS[name]

    assert command.help, name
    assert f"publisher {name}" in command.epilog
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"


def test_read_only_commands_have_a_json_option() -> None:
    able = {name for name, command in COMMANDS.items() if any("--json" in each.opts for each in command.params)}
    assert able >= READS
    assert {name for name in COMMANDS if name.endswith((" list", "status"))} <= READS


def test_main_help_groups_all_commands() -> None:
    groups: list[Any] = [*app.registered_commands, *app.registered_groups]
    assert all(isinstance(each.rich_help_panel, str) for each in groups)


def test_documentation_lists_exactly_the_existing_commands() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `publisher ")]
    named = {row.split("`")[1].removeprefix("publisher ") for row in rows}
    assert named == set(COMMANDS)
