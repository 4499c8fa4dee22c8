"""What a shell is offered, asked as the shell's own script asks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from publisher.cli import command
from publisher.store import Store
from tests.command import Cli
from tests.records import add_ticket

pytestmark = pytest.mark.long
"""Each question starts the command anew, as a shell does."""


def ask(**variables: str) -> str:
    """What the command prints to a shell's script, or as one."""
    publisher = Path(sys.executable).with_name("publisher")
    said = subprocess.run([publisher], env=os.environ | variables, capture_output=True, text=True, timeout=60)
    assert said.stderr == ""
    return said.stdout


def complete(words: str, **variables: str) -> str:
    return ask(_PUBLISHER_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=f"publisher {words}", **variables)


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
def test_what_is_there_is_offered(cli_store: Store, words: str, offered: str) -> None:
    for _ in range(12):
        add_ticket(cli_store)

    assert offered in complete(words)


def test_other_beginnings_are_not(cli_store: Store) -> None:
    add_ticket(cli_store)
    assert '"1"' not in complete("status 2")


def test_without_a_database_nothing_is_offered_and_nothing_made(bare_cli: Cli) -> None:
    for variables in ({}, {"PUBLISHER_DATABASE_URL": "nonsense"}, {"PUBLISHER_INTAKE_PORT": "x"}):
        assert "12" not in complete("status ", **variables)
    assert list(bare_cli.directory.iterdir()) == []


def test_a_store_that_takes_its_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(command, "_COMPLETION_SECONDS", 0.05)
    monkeypatch.setattr(command, "_stored_names", lambda kind, beginning: [("1", "late")] if answered.wait(30) else [])

    assert command.complete_tickets("") == []
    answered.set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts(shell: str) -> None:
    assert f"complete_{shell}" in ask(_PUBLISHER_COMPLETE=f"source_{shell}")
