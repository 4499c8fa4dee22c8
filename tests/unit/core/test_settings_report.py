from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from publisher.core.settings import Settings
from publisher.core.settings_report import Source, hide_secrets, in_force, only_for_a_trial, table, unknown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://publisher:hunter2@db/publisher", "postgresql://publisher:***@db/publisher"),
        ("postgresql://publisher:a@b/c:d@db/publisher", "postgresql://publisher:***@db/publisher"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("amqp://guest@h//", "amqp://guest@h//"),
        ("postgresql://db/x?user=a&password=hunter2&sslmode=require", "postgresql://db/x?user=a&password=***&sslmode=require"),
        ("sqlite:////srv/a@b/publisher.db", "sqlite:////srv/a@b/publisher.db"),
        ("images.example.com, 10.0.0.7:8080", "images.example.com, 10.0.0.7:8080"),
    ],
)  # fmt: skip
def test_secrets_in_urls_are_hidden(url: str, shown: str) -> None:
    assert hide_secrets(url) == shown


def test_each_setting_has_its_source(tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text("postgresql://publisher:hunter2@db/publisher\n")
    environment = {"PUBLISHER_DATABASE_URL_FILE": str(url), "PUBLISHER_LEASE_SECONDS": "70", "PUBLISHER_BROKER_URL": ""}
    found = {each.name: each for each in in_force(Settings.from_environment(environment), environment)}

    assert found.keys() == {setting.name for setting in fields(Settings)}
    assert (found["lease_seconds"].value, found["lease_seconds"].source) == ("70.0", Source.ENVIRONMENT)
    assert (found["broker_url"].value, found["broker_url"].source) == ("", Source.DEFAULT)
    assert found["database_url"].source is Source.FILE
    assert "hunter2" not in repr(found)
    assert found["lease_seconds"].allowed == "0.001 to 86400"
    assert found["log_format"].allowed == "json or console"
    assert found["image_root"].allowed == ""


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PUBLISHER_DATABSE_URL", "PUBLISHER_DATABASE_URL"),
        ("PUBLISHER_INTAKE_PORTS", "PUBLISHER_INTAKE_PORT"),
        ("PUBLISHER_COLOUR", None),
    ],
)
def test_an_unknown_variable_is_reported_with_the_likely_name(variable: str, meant: str | None) -> None:
    (found,) = unknown({variable: "1", "OTHER": "1"})
    assert (found.variable, found.meant) == (variable, meant)
    assert found.message.startswith(f"{variable} is not a setting")


def test_variables_that_are_read_are_not_unknown() -> None:
    known = "PUBLISHER_DATABASE_URL", "PUBLISHER_DATABASE_URL_FILE", "PUBLISHER_DEVCLOUD_VENV"
    assert unknown(dict.fromkeys(known, "x")) == []
    assert unknown({"PUBLISHER_DEVCLOUD_VENV_FILE": "x"}) != []


def test_settings_for_a_trial_are_reported(tmp_path: Path) -> None:
    assert len(list(only_for_a_trial(Settings(data_dir=tmp_path)))) == 4
    complete = Settings(
        database_url="postgresql://db/publisher",
        broker_url="redis://redis",
        secret_key_file=tmp_path / "key",
        public_url="https://images.example.com",
    )
    assert list(only_for_a_trial(complete)) == []


def test_table_has_a_row_for_each_setting() -> None:
    rows = table().splitlines()[2:]
    assert len(rows) == len(fields(Settings))
    assert "| `PUBLISHER_INTAKE_PORT` | 8000 | 1 to 65535 | Port that the intake listens on. |" in rows
