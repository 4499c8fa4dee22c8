"""Commands that replace themselves with another program, and errors of `up`."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from publisher.cli import programs
from publisher.cli.main import app
from tests.command import Cli
from tests.servers.process import free_port


class Became(Exception):
    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command = command
        self.environment = environment


@pytest.fixture
def _executed(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(file: str, command: list[str], environment: dict[str, str]) -> NoReturn:
        raise Became(command, environment)

    monkeypatch.setattr("os.execvpe", execute)


def became(cli: Cli, *arguments: str, **variables: str) -> Became:
    result = cli.runner.invoke(app, list(arguments), env=variables)
    assert isinstance(result.exception, Became), result.output
    return result.exception


@pytest.mark.usefixtures("_executed")
def test_serve_starts_the_intake_with_its_options(bare_cli: Cli) -> None:
    program = became(bare_cli, "serve", "--port", "8080", "--workers", "2")

    assert "-m publisher.intake.server --host 127.0.0.1 --port 8080 --workers 2" in " ".join(program.command)
    assert "--no-proxy-headers" in program.command
    assert "--no-access-log" in program.command
    assert program.environment["PUBLISHER_INTAKE_PORT"] == "8080"
    assert "--proxy-headers" in became(bare_cli, "serve", "--proxy-headers").command


@pytest.mark.usefixtures("_executed")
def test_sweep_starts_the_sweeper_with_its_options(bare_cli: Cli) -> None:
    assert became(bare_cli, "sweep").command[1:] == ["-m", "workers.sweeper"]
    program = became(bare_cli, "sweep", "--dry-run", "--json", PUBLISHER_SWEEP_GRACE_SECONDS="60")
    assert program.command[1:] == ["-m", "workers.sweeper", "--dry-run", "--json"]
    assert program.environment["PUBLISHER_SWEEP_GRACE_SECONDS"] == "60.0"


@pytest.mark.usefixtures("_executed")
def test_worker_starts_without_the_cloud_password(bare_cli: Cli) -> None:
    program = became(bare_cli, "worker", "--concurrency", "9", "--name", "second", OS_PASSWORD="hunter2")

    assert program.command[1:] == ["-m", "workers", "--name", "second@%h", "--loglevel", "INFO"]
    assert program.environment["PUBLISHER_WORKER_CONCURRENCY"] == "9"
    assert "OS_PASSWORD" not in program.environment


@pytest.mark.usefixtures("_executed")
def test_flower_needs_a_login_and_is_read_only(bare_cli: Cli) -> None:
    program = became(bare_cli, "flower")

    password_file = bare_cli.directory / programs.FLOWER_PASSWORD_FILE
    password = password_file.read_text().strip()
    assert password_file.stat().st_mode & 0o777 == 0o600
    assert program.environment["FLOWER_BASIC_AUTH"] == f"operator:{password}"
    assert program.environment["FLOWER_READ_ONLY"] == "true"
    assert "FLOWER_URL_PREFIX" not in program.environment
    below = became(bare_cli, "flower", PUBLISHER_FLOWER_URL="https://images.example.com/a/flower/")
    assert below.environment["FLOWER_URL_PREFIX"] == "a/flower"
    assert password not in " ".join(program.command)
    assert became(bare_cli, "flower").environment["FLOWER_BASIC_AUTH"] == f"operator:{password}"
    assert became(bare_cli, "flower", FLOWER_BASIC_AUTH="a:b").environment["FLOWER_BASIC_AUTH"] == "a:b"


@pytest.mark.usefixtures("_executed")
def test_flower_reads_its_password_from_the_configured_file(bare_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("open sesame\n")

    program = became(bare_cli, "flower", PUBLISHER_FLOWER_PASSWORD_FILE=str(file))

    assert program.environment["FLOWER_BASIC_AUTH"] == "operator:open sesame"
    assert not (bare_cli.directory / programs.FLOWER_PASSWORD_FILE).exists()


@pytest.mark.usefixtures("_executed")
def test_production_mode_warns_of_trial_settings(bare_cli: Cli) -> None:
    for command in ("serve", "worker", "flower"):
        result = bare_cli.runner.invoke(app, [command], env={"PUBLISHER_PRODUCTION": "true"})
        assert "Warning: the ticket store is SQLite" in result.stderr
        assert "Warning" not in bare_cli.runner.invoke(app, [command], env={"PUBLISHER_PRODUCTION": ""}).stderr


@pytest.mark.parametrize("command", ["worker", "up"])
def test_a_concurrency_that_the_setting_may_not_have_is_refused(bare_cli: Cli, command: str) -> None:
    result = bare_cli.run(command, "--concurrency", "1001")

    assert result.exit_code == 2
    assert "--concurrency" in result.stderr


def test_unknown_log_level_is_refused(bare_cli: Cli) -> None:
    result = bare_cli.run("worker", PUBLISHER_LOG_LEVEL="LOUD")

    assert result.exit_code == 2
    assert "PUBLISHER_LOG_LEVEL" in result.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_up_names_the_setting_of_an_unusable_port(bare_cli: Cli, taken_port: int) -> None:
    free = str(free_port())
    for intake, flower, setting in (
        (str(taken_port), free, "PUBLISHER_INTAKE_PORT"),
        (free, str(taken_port), "PUBLISHER_FLOWER_PORT"),
        ("0", free, "PUBLISHER_INTAKE_PORT"),
        (free, free, "PUBLISHER_FLOWER_PORT"),
    ):
        result = bare_cli.run("up", PUBLISHER_INTAKE_PORT=intake, PUBLISHER_FLOWER_PORT=flower)
        assert result.exit_code == 2, result.output
        assert setting in result.stderr
    assert not (bare_cli.directory / "publisher.db").exists()


def test_procfile_runs_these_commands() -> None:
    procfile = Path(__file__).parents[3] / "Procfile"
    lines = dict(line.split(": ", 1) for line in procfile.read_text().splitlines() if line and not line.startswith("#"))

    assert set(lines) == {"web", "worker", "flower"}
    for port, expected in (("5000", "5000"), ("", "8000")):
        shell = lines["web"].replace("publisher serve", 'sh -c "echo \\$PUBLISHER_INTAKE_PORT"')
        said = subprocess.run(["sh", "-c", shell], env={"PORT": port, "PATH": "/usr/bin:/bin"}, capture_output=True)  # noqa: S607
        assert said.stdout.decode().strip() == expected
