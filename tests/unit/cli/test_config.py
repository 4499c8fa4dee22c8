from __future__ import annotations

import json

from publisher.cli import programs
from publisher.core.settings import Settings
from publisher.core.settings_report import table
from tests.command import Cli

URL = "postgresql://publisher:hunter2@127.0.0.1:1/publisher"


def test_the_settings_in_force(bare_cli: Cli) -> None:
    result = bare_cli.run("config", PUBLISHER_DATABASE_URL=URL)

    assert result.exit_code == 0
    assert "PUBLISHER_DATABASE_URL\tpostgresql://publisher:***@127.0.0.1:1/publisher\tenvironment" in result.stdout
    assert "PUBLISHER_INTAKE_PORT\t8000\tdefault" in result.stdout
    changed = bare_cli.ok("config", "--changed", PUBLISHER_DATABASE_URL=URL)
    assert {line.split("\t")[0] for line in changed.splitlines()} == {
        *("PUBLISHER_DATABASE_URL", "PUBLISHER_DATA_DIR", "PUBLISHER_SEND_TIMEOUT_SECONDS")
    }


def test_as_json(bare_cli: Cli) -> None:
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


def test_the_table_for_the_documents(bare_cli: Cli) -> None:
    assert bare_cli.ok("config", "--docs") == table()


def test_every_command_warns_of_a_variable_that_is_none_once(cli: Cli) -> None:
    result = cli.run("users", "list", "--json", PUBLISHER_DATABSE_URL=URL, PUBLISHER_DEVCLOUD_VENV="/x")

    assert result.stderr.count("\n") == 1
    assert "PUBLISHER_DATABSE_URL is not a setting; did you mean PUBLISHER_DATABASE_URL?" in result.stderr
    assert json.loads(result.stdout)["users"]


def test_doctor_tells_of_it_and_of_what_is_only_fit_for_a_trial(bare_cli: Cli) -> None:
    result = bare_cli.run("doctor", "--json", PUBLISHER_LEASE_SECOND="7", PUBLISHER_PRODUCTION="true")

    found = [each for each in json.loads(result.stdout)["checks"] if each["name"] == "settings"]
    assert [each["level"] for each in found] == ["warn"] * 5
    assert all(each["advice"] for each in found)


def test_a_child_reads_from_a_file_what_its_parent_did(bare_cli: Cli) -> None:
    file = bare_cli.directory / "url"
    file.write_text(URL)
    environment = {"PUBLISHER_DATABASE_URL_FILE": str(file), "PUBLISHER_LEASE_SECONDS": "70"}
    settings = Settings.from_environment(environment)

    passed = programs.configured(settings, environment)
    assert "hunter2" not in str(passed)
    assert Settings.from_environment(environment | passed) == settings
