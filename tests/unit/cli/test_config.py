from __future__ import annotations

import json

import pytest

from publisher.cli import programs
from publisher.core.settings import Settings
from publisher.core.settings_report import table
from tests.command import Cli

URL = "postgresql://publisher:hunter2@127.0.0.1:1/publisher"


def test_settings_in_force_are_shown_without_passwords(bare_cli: Cli) -> None:
    result = bare_cli.run("config", PUBLISHER_DATABASE_URL=URL)

    assert result.exit_code == 0
    assert "PUBLISHER_DATABASE_URL\tpostgresql://publisher:***@127.0.0.1:1/publisher\tenvironment" in result.stdout
    assert "PUBLISHER_INTAKE_PORT\t8000\tdefault" in result.stdout
    changed = bare_cli.ok("config", "--changed", PUBLISHER_DATABASE_URL=URL)
    assert {line.split("\t")[0] for line in changed.splitlines()} == {
        *("PUBLISHER_DATABASE_URL", "PUBLISHER_DATA_DIR", "PUBLISHER_SEND_TIMEOUT_SECONDS")
    }


def test_json_has_each_setting_and_unknown_variables(bare_cli: Cli) -> None:
    answer = bare_cli.json("config", PUBLISHER_LEASE_SECOND="7")

    assert answer["unknown"] == [{"variable": "PUBLISHER_LEASE_SECOND", "meant": "PUBLISHER_LEASE_SECONDS"}]
    (port,) = (each for each in answer["settings"] if each["name"] == "intake_port")
    assert port == {
        "name": "intake_port",
        "variable": "PUBLISHER_INTAKE_PORT",
        "value": "8000",
        "source": "default",
        "allowed": "1 to 65535",
        "help": "Port that the intake listens on.",
    }


def test_docs_prints_the_table_of_all_settings(bare_cli: Cli) -> None:
    assert bare_cli.ok("config", "--docs") == table()


def test_every_command_warns_once_of_an_unknown_variable(cli: Cli) -> None:
    result = cli.run("users", "list", "--json", PUBLISHER_DATABSE_URL=URL, PUBLISHER_DEVCLOUD_VENV="/x")

    assert result.stderr.count("\n") == 1
    assert "PUBLISHER_DATABSE_URL is not a setting; did you mean PUBLISHER_DATABASE_URL?" in result.stderr
    assert json.loads(result.stdout)["users"]


@pytest.mark.parametrize("command", ["audit list", "fleet list", "tickets list"])
def test_lists_warn_of_an_unknown_variable(cli: Cli, command: str) -> None:
    result = cli.run(*command.split(), "--json", PUBLISHER_DATABSE_URL=URL)

    assert result.exit_code == 0
    assert result.stderr.count("PUBLISHER_DATABSE_URL is not a setting") == 1


@pytest.mark.long
def test_doctor_warns_of_unknown_variables_and_of_trial_settings(bare_cli: Cli) -> None:
    result = bare_cli.run("doctor", "--json", PUBLISHER_LEASE_SECOND="7", PUBLISHER_PRODUCTION="true")

    found = [each for each in json.loads(result.stdout)["checks"] if each["name"] == "settings"]
    assert [each["level"] for each in found] == ["warn"] * 5
    assert all(each["advice"] for each in found)


def test_a_child_reads_the_same_file_as_its_parent(bare_cli: Cli) -> None:
    file = bare_cli.directory / "url"
    file.write_text(URL)
    environment = {"PUBLISHER_DATABASE_URL_FILE": str(file), "PUBLISHER_LEASE_SECONDS": "70"}
    settings = Settings.from_environment(environment)

    passed = programs.configured(settings, environment)
    assert "hunter2" not in str(passed)
    assert Settings.from_environment(environment | passed) == settings
