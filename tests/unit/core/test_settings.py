"""Settings are read from the environment and passed on to other processes in it without loss."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("PUBLISHER_INTAKE_PORT", "8080", "intake_port", 8080),
        ("PUBLISHER_INTAKE_PORT", " 8080.0", "intake_port", 8080),
        ("PUBLISHER_UPLOAD_BYTES_MAX", "9_007_199_254_740_993", "upload_bytes_max", 9007199254740993),
        ("PUBLISHER_LEASE_SECONDS", "70.5", "lease_seconds", 70.5),
        ("PUBLISHER_LEASE_SECONDS", "7e1", "lease_seconds", 70.0),
        ("PUBLISHER_LEASE_SECONDS", "70", "lease_seconds", 70.0),
        ("PUBLISHER_PRODUCTION", "true", "production", True),
        ("PUBLISHER_PRODUCTION", "ON", "production", True),
        ("PUBLISHER_PRODUCTION", "1", "production", True),
        ("PUBLISHER_PRODUCTION", "no", "production", False),
        ("PUBLISHER_PRODUCTION", "False", "production", False),
        ("PUBLISHER_LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("PUBLISHER_DATA_DIR", "/srv/publisher", "data_dir", Path("/srv/publisher")),
        ("PUBLISHER_IMAGE_ROOT", "/srv/images", "image_root", Path("/srv/images")),
        ("PUBLISHER_IMAGE_ROOT", "", "image_root", None),
        ("PUBLISHER_INTAKE_PORT", "", "intake_port", 8000),
    ],
)
def test_value_of_each_type_is_read(variable: str, text: str, name: str, value: object) -> None:
    read = getattr(Settings.from_environment({variable: text}), name)
    assert read == value
    assert type(read) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PUBLISHER_INTAKE_PORT", "http"),
        ("PUBLISHER_INTAKE_PORT", "80.5"),
        ("PUBLISHER_INTAKE_PORT", "80."),
        ("PUBLISHER_INTAKE_PORT", "0x50"),
        ("PUBLISHER_INTAKE_PORT", "\u0668\u0660"),
        ("PUBLISHER_LEASE_SECONDS", "\u0667\u0660"),
        ("PUBLISHER_LEASE_SECONDS", "1,5"),
        ("PUBLISHER_LEASE_SECONDS", "a while"),
        ("PUBLISHER_LEASE_SECONDS", "nan"),
        ("PUBLISHER_STALL_SECONDS", "inf"),
        ("PUBLISHER_PRODUCTION", "perhaps"),
    ],
)
def test_error_for_an_invalid_value_names_the_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_environment({variable: text})


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("intake_port", "99999", "a whole number from 1 to 65535"),
        ("intake_port", "0", "a whole number from 1 to 65535"),
        ("worker_metrics_port", "-1", "a whole number from 0 to 65535"),
        ("lease_seconds", "-5", "a number from 0.001 to 86400"),
        ("lease_seconds", "0", "a number from 0.001 to 86400"),
        ("deadline_seconds", "-0.1", "a number from 0 to 31622400"),
        ("attempts_max", "0", "a whole number from 1 to 1000000"),
        ("worker_concurrency", "9" * 5000, "a whole number from 1 to 1000"),
        ("queue_max", "1.5", "a whole number from 0 to 1000000000"),
        ("broker_tls_verify", "perhaps", "true or false"),
        ("log_level", "loud", "DEBUG, INFO, WARNING or ERROR"),
        ("log_format", "xml", "json or console"),
        ("outbound_deny", "10.0.0.0/33", "networks such as 10.0.0.0/8, without host bits and with commas between"),
        ("outbound_allow", "10.0.0.1/8", "networks such as 10.0.0.0/8, without host bits and with commas between"),
        *(("notify_retry_seconds", text, "seconds, with commas between") for text in ("5,x", "-1", "inf", "nan")),
    ],
)
def test_a_refusal_names_the_variable_and_what_is_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment({f"PUBLISHER_{name.upper()}": text})
    assert str(refused.value) == f"PUBLISHER_{name.upper()}: give {allowed}"


@pytest.mark.parametrize("name", ["public_url", "flower_url"])
@pytest.mark.parametrize(
    "text", ["images.example.com", "ftp://images.example.com", "https://", "http://[::1", "http://a:x"]
)
def test_an_address_of_our_own_is_a_url(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^PUBLISHER_{name.upper()}: write it as in https://"):
        Settings.from_environment({f"PUBLISHER_{name.upper()}": text})


@pytest.mark.parametrize(
    "setting",
    [each for each in dataclasses.fields(Settings) if type(each.default) in (int, float)],
    ids=lambda each: each.name,
)
def test_each_number_has_bounds(setting: dataclasses.Field[Any]) -> None:
    for text in ("-1", "1e30", "10" * 20):
        with pytest.raises(ConfigurationError, match=rf"^PUBLISHER_{setting.name.upper()}: give .* from .* to "):
            Settings.from_environment({f"PUBLISHER_{setting.name.upper()}": text})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"LEASE_SECONDS": "10", "LEASE_RENEW_SECONDS": "9.5"},
            "PUBLISHER_LEASE_RENEW_SECONDS (9.5) plus PUBLISHER_PROGRESS_SECONDS (0.5) must be less than"
            " PUBLISHER_LEASE_SECONDS (10)",
        ),
        (
            {"RETRY_FIRST_SECONDS": "301"},
            "PUBLISHER_RETRY_FIRST_SECONDS (301) must be at most PUBLISHER_RETRY_LONGEST_SECONDS (300)",
        ),
        (
            {"SESSION_SECONDS": "3600"},
            "PUBLISHER_SESSION_IDLE_SECONDS (28800) must be at most PUBLISHER_SESSION_SECONDS (3600)",
        ),
        (
            {"CALL_TIMEOUT_SECONDS": "9"},
            "PUBLISHER_CONNECT_TIMEOUT_SECONDS (10) must be at most PUBLISHER_CALL_TIMEOUT_SECONDS (9)",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment({f"PUBLISHER_{name}": text for name, text in variables.items()})
    assert str(refused.value) == message


def test_equal_values_are_accepted_where_one_is_the_maximum_of_the_other() -> None:
    variables = {"PUBLISHER_RETRY_FIRST_SECONDS": "9", "PUBLISHER_RETRY_LONGEST_SECONDS": "9"}
    assert Settings.from_environment(variables).retry_longest_seconds == 9


def test_all_invalid_values_are_reported_together(tmp_path: Path) -> None:
    reading = Settings.examine(
        {
            "PUBLISHER_INTAKE_PORT": "99999",
            "PUBLISHER_LEASE_SECONDS": "-5",
            "PUBLISHER_LEASE_RENEW_SECONDS": "60",
            "PUBLISHER_RETRY_FIRST_SECONDS": "301",
            "PUBLISHER_DATABASE_URL_FILE": str(tmp_path / "missing"),
            "PUBLISHER_FLOWER_PORT": "5556",
        }
    )

    # The renewal is not compared with a lease that is invalid itself.
    assert [sorted(each.names) for each in reading.problems] == [
        *(["database_url"], ["intake_port"], ["lease_seconds"], ["retry_first_seconds", "retry_longest_seconds"])
    ]
    assert (reading.settings.intake_port, reading.settings.flower_port) == (8000, 5556)


def test_an_error_has_a_line_for_each_invalid_value() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment({"PUBLISHER_FLOWER_PORT": "x", "PUBLISHER_INTAKE_PORT": "y"})
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        *("PUBLISHER_INTAKE_PORT", "PUBLISHER_FLOWER_PORT")
    ]


def test_no_message_quotes_a_value_that_may_be_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    names = [each.name for each in dataclasses.fields(Settings)]
    reading = Settings.examine({f"PUBLISHER_{name.upper()}_FILE": str(file) for name in names})

    assert len(reading.problems) > 50
    assert "hunter2" not in str([each.message for each in reading.problems if each.names != {"broker_ca_file"}])


def test_other_variables_are_ignored() -> None:
    assert Settings.from_environment({"INTAKE_PORT": "1", "PUBLISHER": "x"}) == Settings.from_environment({})


def test_environment_gives_another_process_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        database_url="postgresql://u:p%40@db/x",
        broker_url="amqp://u:p@mq//",
        image_root=tmp_path / "with space",
        secret_key_file=tmp_path / "key",
        production=True,
        log_level="DEBUG",
        public_url="https://publish.example.com/api",
        lease_seconds=0.1,
        lease_renew_seconds=0.04,
        progress_seconds=0.01,
        worker_concurrency=9,
    )
    assert Settings.from_environment(settings.environment()) == settings


def test_every_default_survives_the_round_trip(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    environment = settings.environment()
    assert Settings.from_environment(environment) == settings
    assert all(isinstance(value, str) for value in environment.values())
    assert "PUBLISHER_IMAGE_ROOT" not in environment


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().intake_port = 1  # type: ignore[misc]


def test_unset_paths_are_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/publisher.db"
    assert settings.images == tmp_path / "images"
    assert settings.key_file == tmp_path / "secret.key"
    assert settings.broker == f"redis+socket://{settings.embedded_redis_socket}"


@pytest.mark.parametrize("length", [10, 60, 95, 100, 107, 200])
def test_embedded_broker_socket_path_is_short_and_stable(length: int) -> None:
    settings = Settings(data_dir=Path("/" + "d" * length))
    socket = settings.embedded_redis_socket
    assert len(os.fsencode(socket)) <= 100
    assert Settings(data_dir=settings.data_dir).embedded_redis_socket == socket
    assert Settings(data_dir=Path("/" + "e" * length)).embedded_redis_socket != socket


def test_socket_path_length_is_measured_in_bytes() -> None:
    assert len(os.fsencode(Settings(data_dir=Path("/" + "é" * 60)).embedded_redis_socket)) <= 100


def test_relative_and_absolute_data_directory_share_one_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = Settings(data_dir=tmp_path / "data").embedded_redis_socket
    assert Settings(data_dir=Path("data")).embedded_redis_socket == absolute


def test_value_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("  postgresql://u:p@db/x \nand what else is in it\n")
    assert Settings.from_environment({"PUBLISHER_DATABASE_URL_FILE": str(file)}).database_url == "postgresql://u:p@db/x"
    file.write_text("8080")
    assert Settings.from_environment({"PUBLISHER_INTAKE_PORT_FILE": str(file)}).intake_port == 8080
    file.write_text("")
    assert Settings.from_environment({"PUBLISHER_INTAKE_PORT_FILE": str(file)}).intake_port == 8000


def test_a_file_without_a_usable_value_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "value"
    for content in (None, b"\xff secret", b"http"):
        if content:
            file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="PUBLISHER_INTAKE_PORT_FILE") as refused:
            Settings.from_environment({"PUBLISHER_INTAKE_PORT_FILE": str(file)})
        assert "secret" not in str(refused.value)
    both = {"PUBLISHER_DATABASE_URL": "x", "PUBLISHER_DATABASE_URL_FILE": str(file)}
    with pytest.raises(ConfigurationError, match="both set"):
        Settings.from_environment(both)


def test_the_settings_are_read_without_a_library_that_is_slow_to_import() -> None:
    program = (
        "import sys; from publisher.core.settings import Settings; Settings.from_environment({});"
        "import publisher.core.settings_report; sys.exit(any(each.startswith('pydantic') for each in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
