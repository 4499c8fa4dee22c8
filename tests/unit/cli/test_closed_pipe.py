"""`publisher … | head -1`: a closed pipe is not an error and never shows a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from publisher.store import Store
from tests.command import Cli
from tests.records import add_ticket
from tests.unit.cli.test_help import READS

pytestmark = pytest.mark.long

OUTCOMES = {"status 1 --wait", "logs 1 --follow", "doctor", "doctor --json", "devcloud status"}
"""Commands whose exit code reports an outcome, not only that everything was printed."""


_DRIVER = """\
import os, sys
from publisher.cli.main import app
import publisher.store

with open(sys.argv[1], "w") as codes:
    for command in sys.argv[2:]:
        if not (child := os.fork()):
            sys.argv = ["publisher", *command.split()]
            app()
        codes.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])} {command}\\n")
        codes.flush()
"""
"""Run each command in a forked child, so that modules common to all are imported once."""


def without_a_reader(file: Path, *commands: str, errors: int = subprocess.PIPE) -> tuple[dict[str, int], str]:
    """Run commands one after the other with a closed pipe as output. Return exit codes and standard error."""
    unread, output = os.pipe()
    os.close(unread)
    try:
        driven = subprocess.run(
            [sys.executable, "-c", _DRIVER, file, *commands],
            stdout=output,
            stderr=errors,
            text=True,
            timeout=170,
            check=True,
        )
    finally:
        os.close(output)
    ended = [line.split(" ", 1) for line in file.read_text().splitlines()]
    return {command: int(code) for code, command in ended}, driven.stderr or ""


def test_listing_into_a_closed_pipe_succeeds(cli: Cli, cli_store: Store) -> None:
    add_ticket(cli_store)
    cli.ok("roles", "add", "publishers", "--entitlement", "image_publish")
    commands = {f"{each} 1" if each in {"status", "logs"} else each for each in READS - {"devcloud env"}}
    commands |= {"--help", "tickets --help", "tickets list --json", "top --once", "sweep"}
    commands -= OUTCOMES

    assert without_a_reader(cli.directory / "codes", *commands) == (dict.fromkeys(commands, 0), "")


def test_commands_with_an_outcome_end_by_sigpipe(cli: Cli, cli_store: Store) -> None:
    add_ticket(cli_store)
    assert without_a_reader(cli.directory / "codes", *OUTCOMES) == (dict.fromkeys(OUTCOMES, -signal.SIGPIPE), "")


@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT])
def test_error_keeps_its_exit_code_with_a_closed_pipe(cli: Cli, errors: int) -> None:
    assert cli.ok("users", "list")
    assert without_a_reader(cli.directory / "codes", "status 99", errors=errors)[0] == {"status 99": 2}
