"""Shell completion, called as the shell's own script calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from publisher.cli import command
from publisher.cli.main import app
from publisher.store import Store
from tests.command import Cli
from tests.records import add_ticket


def ask(cli: Cli, **variables: str) -> str:
    """Return what the command prints: completions for a shell's script, or the script itself."""
    said = cli.runner.invoke(app, env=variables, prog_name="publisher")
    assert said.stderr == ""
    return said.stdout


def asked_for(words: str) -> dict[str, str]:
    """Return the variables with which a shell's script asks for completions."""
    return {"_PUBLISHER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"publisher {words}"}


@pytest.mark.long
def test_command_completes_as_a_program_of_its_own(cli_store: Store) -> None:
    add_ticket(cli_store)
    publisher = Path(sys.executable).with_name("publisher")
    said = subprocess.run(
        [publisher], env=os.environ | asked_for("status "), capture_output=True, text=True, timeout=60
    )
    assert '"1"' in said.stdout
    assert said.stderr == ""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("status ", '"12"'),
        ("cancel 1", '"12"'),
        ("logs ", "an image"),
        ("publish ", '"1"'),
        ("tickets list --user ro", '"root"'),
        ("users passwd ", '"root"'),
        ("tickets list --state que", '"queued"'),
    ],
)
def test_matching_values_are_offered(cli: Cli, cli_store: Store, words: str, offered: str) -> None:
    for _ in range(12):
        add_ticket(cli_store)

    assert offered in ask(cli, **asked_for(words))


def test_values_with_another_prefix_are_not_offered(cli: Cli, cli_store: Store) -> None:
    add_ticket(cli_store)
    assert '"1"' not in ask(cli, **asked_for("status 2"))


def test_completion_without_a_database_offers_and_creates_nothing(bare_cli: Cli) -> None:
    for variables in ({}, {"PUBLISHER_DATABASE_URL": "nonsense"}, {"PUBLISHER_INTAKE_PORT": "x"}):
        assert "12" not in ask(bare_cli, **asked_for("status "), **variables)
    assert list(bare_cli.directory.iterdir()) == []


def test_completion_does_not_wait_for_a_slow_store(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(command, "_COMPLETION_SECONDS", 0.05)
    monkeypatch.setattr(command, "_stored_names", lambda kind, beginning: [("1", "late")] if answered.wait(30) else [])

    assert command.complete_tickets("") == []
    answered.set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed_for_each_shell(bare_cli: Cli, shell: str) -> None:
    assert f"complete_{shell}" in ask(bare_cli, _PUBLISHER_COMPLETE=f"source_{shell}")
