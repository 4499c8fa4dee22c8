"""Rules for every command: quick help, errors in one line, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from publisher.store import Store
from publisher.version import __version__
from tests.command import Cli
from tests.patience import PATIENCE
from tests.records import add_ticket

HEAVY = {
    *(
        "alembic",
        "amqp",
        "argon2",
        "celery",
        "cryptography",
        "httpx",
        "jinja2",
        "kombu",
        "keystoneauth1",
        "lxml",
    ),
    *("opentelemetry", "prometheus_client", "pydantic", "pydantic_core", "redis", "sqlalchemy", "starlette", "uvicorn"),
    *("yaml", "publisher.store", "publisher.platforms"),
}
"""What takes long to import, and no help needs."""
USED_BY_STATUS = {"argon2", "pydantic", "pydantic_core", "sqlalchemy", "publisher.store", "publisher.platforms"}
"""`publisher status` reads the settings and the store."""

HELP_OF_ALL = """
import sys
from typer.testing import CliRunner
from publisher.cli.main import LISTED, app
for arguments in [[], *([name] for _, name, *_ in LISTED)]:
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
print(*sys.modules)
"""
STATUS = """
import sys
from typer.testing import CliRunner
from publisher.cli.main import app
assert CliRunner().invoke(app, ["status", "1"]).exit_code == 0
print(*sys.modules)
"""


def imported(program: str) -> set[str]:
    """Return the modules that a program imports, by the list that it prints at its end."""
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60 * PATIENCE
    )
    return set(said.stdout.split())


def test_version_option_prints_the_version(bare_cli: Cli) -> None:
    assert bare_cli.ok("--version") == f"image-publisher {__version__}\n"


@pytest.mark.long
def test_help_imports_no_heavy_modules() -> None:
    # Typer itself imports pydantic to read the options of a command.
    assert imported(HELP_OF_ALL) & HEAVY <= {"pydantic", "pydantic_core"}


@pytest.mark.long
def test_list_of_commands_imports_no_heavy_modules() -> None:
    program = HELP_OF_ALL.replace("[[], *([name] for _, name, *_ in LISTED)]", "[[]]")
    assert imported(program) & HEAVY == set()


@pytest.mark.long
def test_help_of_the_command_imports_no_other_command() -> None:
    assert not {each for each in imported("import sys, publisher.cli.main; print(*sys.modules)") if "_command" in each}


@pytest.mark.long
def test_status_imports_only_what_reads_the_settings_and_the_store(cli_store: Store) -> None:
    add_ticket(cli_store)

    found = imported(STATUS)

    assert found & (HEAVY - USED_BY_STATUS) == set()
    assert "sqlalchemy.dialects.postgresql" not in found


def test_error_names_the_invalid_setting(bare_cli: Cli) -> None:
    result = bare_cli.run("users", "list", PUBLISHER_INTAKE_PORT="eighty")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: PUBLISHER_INTAKE_PORT: ")
    assert result.stderr.count("\n") == 1


def test_command_without_an_installation_creates_nothing(bare_cli: Cli, tmp_path: Path) -> None:
    result = bare_cli.run("users", "list")

    assert result.exit_code == 2
    assert "there is no installation in" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_error_for_an_empty_database_suggests_migrate(bare_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "publisher.db").touch()
    result = bare_cli.run("users", "list")

    assert result.exit_code == 2
    assert "run: publisher migrate" in result.stderr
    bare_cli.ok("migrate")
    bare_cli.ok("users", "list")


def test_file_that_is_not_a_database_is_reported(bare_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "publisher.db").write_bytes(b"this is no database" * 100)

    result = bare_cli.run("users", "list")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the database cannot be used: ")


def test_data_directory_that_cannot_be_created_is_reported(bare_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    result = bare_cli.run("migrate", PUBLISHER_DATA_DIR=str(tmp_path / "file" / "data"))

    assert result.exit_code == 1
    assert result.stderr.endswith("Not a directory\n")


@pytest.mark.parametrize("arguments", [["status", "99999999999999999999"], ["status", "x"], ["nonsense"]])
def test_invalid_arguments_exit_with_2(cli: Cli, arguments: list[str]) -> None:
    assert cli.run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tickets", "list", "--count", "x"], "--count: 'x' is not a number"),
        (["tickets", "list", "--count", "-1"], "--count: -1 is too small; the smallest is 0"),
        (["tickets", "list", "--state", "x"], "--state: 'x' is not one of 'queued', "),
        (
            ["status", "9223372036854775808"],
            "ticket: 9223372036854775808 is too large; the largest is 9223372036854775807",
        ),
        (["top", "--every", "x"], "--every: 'x' is not a number"),
        (["top", "--every", "nan"], "--every: nan is too small; the smallest is 0.2"),
        (["serve", "--port", "65536"], "--port: 65536 is too large; the largest is 65535"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli.run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {words}")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_exits_with_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("publisher.store.users.Users.list", interrupted)
    assert cli.run("users", "list").exit_code == 130
