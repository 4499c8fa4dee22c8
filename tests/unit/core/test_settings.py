"""Settings are read from the environment, and written to it for another process, without loss."""

import dataclasses
import os
from pathlib import Path

import pytest

from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("PUBLISHER_INTAKE_PORT", "8080", "intake_port", 8080),
        ("PUBLISHER_LEASE_SECONDS", "7.5", "lease_seconds", 7.5),
        ("PUBLISHER_LEASE_SECONDS", "7", "lease_seconds", 7.0),
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
def test_each_type_is_read(variable: str, text: str, name: str, value: object) -> None:
    read = getattr(Settings.from_environment({variable: text}), name)
    assert read == value
    assert type(read) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PUBLISHER_INTAKE_PORT", "http"),
        ("PUBLISHER_INTAKE_PORT", "80.5"),
        ("PUBLISHER_LEASE_SECONDS", "a while"),
        ("PUBLISHER_LEASE_SECONDS", "nan"),
        ("PUBLISHER_STALL_SECONDS", "inf"),
        ("PUBLISHER_PRODUCTION", "perhaps"),
    ],
)
def test_a_bad_value_is_refused_by_its_variables_name(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_environment({variable: text})


def test_other_variables_are_left_alone() -> None:
    assert Settings.from_environment({"INTAKE_PORT": "1", "PUBLISHER": "x"}) == Settings.from_environment({})


def test_the_environment_makes_another_process_read_the_same(tmp_path: Path) -> None:
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


def test_what_is_not_set_lives_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/publisher.db"
    assert settings.images == tmp_path / "images"
    assert settings.key_file == tmp_path / "secret.key"
    assert settings.broker == f"redis+socket://{settings.embedded_redis_socket}"


@pytest.mark.parametrize("length", [10, 60, 95, 100, 107, 200])
def test_the_embedded_brokers_socket_is_short_enough_and_the_same_everywhere(length: int) -> None:
    settings = Settings(data_dir=Path("/" + "d" * length))
    socket = settings.embedded_redis_socket
    assert len(os.fsencode(socket)) <= 100
    assert Settings(data_dir=settings.data_dir).embedded_redis_socket == socket
    assert Settings(data_dir=Path("/" + "e" * length)).embedded_redis_socket != socket


def test_a_socket_path_is_measured_in_bytes() -> None:
    assert len(os.fsencode(Settings(data_dir=Path("/" + "é" * 60)).embedded_redis_socket)) <= 100


def test_a_relative_data_directory_names_one_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = Settings(data_dir=tmp_path / "data").embedded_redis_socket
    assert Settings(data_dir=Path("data")).embedded_redis_socket == absolute


def test_a_value_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("  postgresql://u:p@db/x \nand what else is in it\n")
    assert Settings.from_environment({"PUBLISHER_DATABASE_URL_FILE": str(file)}).database_url == "postgresql://u:p@db/x"
    file.write_text("8080")
    assert Settings.from_environment({"PUBLISHER_INTAKE_PORT_FILE": str(file)}).intake_port == 8080
    file.write_text("")
    assert Settings.from_environment({"PUBLISHER_INTAKE_PORT_FILE": str(file)}).intake_port == 8000


def test_files_that_give_no_value(tmp_path: Path) -> None:
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
