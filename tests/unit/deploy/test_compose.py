"""The compose file: its services are confined and read their secrets from files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from publisher.core.settings import Settings
from tests.patience import PATIENCE
from tests.servers import missing
from tests.unit.deploy.files import DEPLOY, REPOSITORY, unknown_variables

FILE = REPOSITORY / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("intake", "worker", "flower", "migrate")


def test_compose_file_defines_the_expected_services() -> None:
    assert set(SERVICES) == {*OURS, "proxy", "postgres", "redis", "rabbitmq", "devcloud"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    profiles = {name: each["profiles"] for name, each in SERVICES.items() if "profiles" in each}
    assert profiles == {"rabbitmq": ["rabbitmq"], "devcloud": ["devcloud"]}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert "docker.sock" not in str(service)
    assert service.get("user", "") != "root"
    assert service["restart"] in ("unless-stopped", "on-failure")


def test_only_the_proxy_publishes_ports() -> None:
    assert [name for name, each in SERVICES.items() if "ports" in each] == ["proxy"]
    reaching_out = {name for name, each in SERVICES.items() if "outside" in each["networks"]}
    assert reaching_out == {"proxy", "worker", "devcloud"}
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert internal == {"edge", "inside"}


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ("migrate", "proxy")])
def test_each_service_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if name in OURS and "healthcheck" not in service:
        # The image has the health check; each service sets its address.
        image = (REPOSITORY / "Dockerfile").read_text()
        assert "HEALTHCHECK" in image
        assert name == "intake" or service["environment"]["HEALTH_URL"].startswith("http://127.0.0.1:")
    else:
        assert service["healthcheck"]["test"]


def test_every_secret_is_mounted_as_a_file_named_by_a_setting() -> None:
    text = FILE.read_text()
    assert "PASSWORD:" not in text.replace("PASSWORD_FILE:", "")
    for name in OURS:
        service = SERVICES[name]
        mounted = {f"/run/secrets/{secret}" for secret in service["secrets"]}
        named = {value for value in service["environment"].values() if str(value).startswith("/run/secrets/")}
        assert named == mounted
    assert {each["file"] for each in COMPOSE["secrets"].values()} == {
        f"./secrets/{name}" for name in COMPOSE["secrets"]
    }


def test_grace_period_of_workers_is_long_enough_for_a_drain() -> None:
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) >= Settings().drain_seconds + 10


def test_workers_refuse_addresses_of_the_inside_network() -> None:
    (range,) = COMPOSE["networks"]["inside"]["ipam"]["config"]
    assert {SERVICES[name]["environment"]["PUBLISHER_OUTBOUND_DENY"] for name in OURS} == {range["subnet"]}
    beside_a_worker = {
        name
        for name, service in SERVICES.items()
        if set(service["networks"]) & (set(SERVICES["worker"]["networks"]) - {"inside"})
    }
    assert beside_a_worker == {"worker", "proxy", "devcloud"}


def test_every_variable_is_a_known_setting() -> None:
    assert unknown_variables(FILE.read_text()) == set()
    assert unknown_variables((REPOSITORY / "Dockerfile").read_text()) == set()


def make_secrets(directory: Path, *options: str) -> Path:
    """Run the script in a copy of the repository's layout, without the commands that need root."""
    (directory / "deploy").mkdir()
    (directory / "bin").mkdir()
    for command in ("chown", "sudo"):
        (directory / "bin" / command).symlink_to("/bin/true")
    script = shutil.copy(DEPLOY / "compose-init.sh", directory / "deploy")
    path = f"{directory / 'bin'}:{os.environ['PATH']}"
    subprocess.run([script, *options], env={"PATH": path}, check=True, capture_output=True, timeout=30 * PATIENCE)
    return directory / "secrets"


@pytest.mark.parametrize(("options", "broker"), [([], "redis://:"), (["--rabbitmq"], "amqp://publisher:")])
def test_script_creates_every_secret(tmp_path: Path, options: list[str], broker: str) -> None:
    secrets = make_secrets(tmp_path, *options)

    content = {file.name: file.read_text().strip() for file in secrets.iterdir()}
    assert content.keys() == {*COMPOSE["secrets"], "rabbitmq_conf"}
    assert all(file.stat().st_mode & 0o777 == 0o400 for file in secrets.iterdir())
    assert content["postgres_password"] in content["database_url"]
    assert content["broker_url"].startswith(broker)
    Fernet(content["publisher_key"])
    settings = Settings.from_environment({"PUBLISHER_DATABASE_URL_FILE": str(secrets / "database_url")})
    assert settings.database_url == content["database_url"]
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [tmp_path / "deploy" / "compose-init.sh"], check=True, capture_output=True, timeout=30 * PATIENCE
        )


def compose_client() -> list[str] | None:
    """`docker compose`, or the older `docker-compose`; neither needs a Docker engine to check a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    return None


@pytest.mark.long
@pytest.mark.parametrize("profile", ["", "rabbitmq", "devcloud"])
def test_compose_client_accepts_the_file(profile: str) -> None:
    client = compose_client() or missing("`docker compose` or `docker-compose`")
    profiles = ["--profile", profile] if profile else []
    checked = subprocess.run(
        [*client, "--file", FILE, *profiles, "config", "--quiet"], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
