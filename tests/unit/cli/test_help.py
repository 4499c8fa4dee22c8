"""Every command has complete help, and every command that only reads can print JSON."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_group

from publisher.cli import main
from publisher.cli.main import LISTED, OPERATIONS, PUBLISHING, RESOURCES, SERVICES, ListedCommand
from tests.command import all_commands

READS = {
    *("status", "logs", "top", "config", "doctor", "tickets list", "images list", "appliances list", "accounts list"),
    *("users list", "roles list", "fleet list", "audit list", "devcloud env", "devcloud status"),
}
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


COMMANDS = {" ".join(names): command for names, command in all_commands() if not hasattr(command, "commands")}


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


@pytest.mark.parametrize(("panel", "name", "module", "help"), LISTED)
def test_main_help_groups_each_command_and_quotes_its_own_help(panel: str, name: str, module: str, help: str) -> None:
    command = ListedCommand(panel, name, module, help).loaded
    assert panel in (PUBLISHING, RESOURCES, OPERATIONS, SERVICES)
    assert command.name == name
    assert help == command.help.partition("\n\n")[0].replace("\n", " ")


def test_each_command_of_a_module_is_listed() -> None:
    modules = {each.stem for each in Path(main.__file__).parent.glob("*_command.py")}
    assert modules == {module for _, _, module, _ in LISTED}
    for each in modules:
        held = get_group(import_module(f"publisher.cli.{each}").commands).commands
        assert set(held) == {name for _, name, module, _ in LISTED if module == each}


def test_documentation_lists_exactly_the_existing_commands() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `publisher ")]
    named = {row.split("`")[1].removeprefix("publisher ") for row in rows}
    assert named == set(COMMANDS)
