from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from publisher.cli import doctor_command
from publisher.cli.doctor_command import Finding, Level
from publisher.core.errors import QueueUnavailable
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store
from publisher.store.database import writing
from tests.command import Cli
from tests.servers.listening import listening


@pytest.fixture(autouse=True, scope="module")
def plugins_are_loaded_once() -> Iterator[None]:
    """Load the plugins once: that takes half a second, and has the same result for each installation here."""
    found = functools.cache(lambda: list(doctor_command.check_plugins(Settings())))

    def check_plugins(settings: Settings) -> Iterator[Finding]:
        return iter(found())

    with pytest.MonkeyPatch.context() as patch:
        checks = [check_plugins if check is doctor_command.check_plugins else check for check in doctor_command.CHECKS]
        patch.setattr(doctor_command, "CHECKS", tuple(checks))
        yield


def levels(answer: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["level"] for check in answer["checks"]}


@pytest.mark.long
def test_each_failure_says_what_to_do(bare_cli: Cli) -> None:
    result = bare_cli.run("doctor", "--json")

    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert not answer["ok"]
    found = levels(answer)
    assert [found[name] for name in ("database", "broker", "key", "images", "worker")] == [
        *("fail", "fail", "fail", "warn", "warn")
    ]
    assert found["plugin memory"] == "ok"
    assert all(check["advice"] for check in answer["checks"] if check["level"] != "ok")
    # The checks create nothing.
    assert list(bare_cli.directory.iterdir()) == []


@pytest.mark.long
def test_a_sound_installation_passes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment()
    settings.images.mkdir()
    (cli.directory / "publisher.db").chmod(0o600)
    Vault.from_file(settings.key_file)
    monkeypatch.setattr("publisher.services.wakeups.WakeQueue.check", lambda self: None)
    monkeypatch.setattr(doctor_command, "ping_workers", lambda settings, *, timeout_seconds: ["publisher@here"])

    result = cli.run("doctor")

    assert result.exit_code == 0, result.output
    assert "fail" not in result.stdout
    assert "warn" not in result.stdout


def level(findings: Iterator[Finding]) -> Level:
    (finding,) = findings
    return finding.level


def test_the_key_must_be_valid_and_private(bare_cli: Cli, tmp_path: Path) -> None:
    settings = Settings.from_environment()
    settings.key_file.write_text("nonsense")
    settings.key_file.chmod(0o600)
    assert level(doctor_command.check_key(settings)) is Level.FAIL

    settings.key_file.unlink()
    Vault.from_file(settings.key_file)
    assert level(doctor_command.check_key(settings)) is Level.OK

    settings.key_file.chmod(0o644)
    assert level(doctor_command.check_key(settings)) is Level.FAIL


def test_the_image_root_must_be_a_writable_directory(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment()
    settings.images.touch()
    assert level(doctor_command.check_image_root(settings)) is Level.FAIL

    settings.images.unlink()
    settings.images.mkdir()
    assert level(doctor_command.check_image_root(settings)) is Level.OK

    # Root may read and write everything, so the kernel's answer is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert level(doctor_command.check_image_root(settings)) is Level.WARN
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert level(doctor_command.check_image_root(settings)) is Level.FAIL


def test_a_plugin_that_does_not_load_fails(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.platforms.platform.installed", lambda: ("memory",))
    monkeypatch.setattr(doctor_command, "_LOAD", "raise ImportError('no SDK here')")

    (finding,) = doctor_command.check_plugins(Settings.from_environment())

    assert finding.level is Level.FAIL
    assert "no SDK here" in finding.message


def test_a_missing_worker_is_a_warning(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment()
    monkeypatch.setattr(doctor_command, "ping_workers", lambda settings, *, timeout_seconds: [])
    assert level(doctor_command.check_workers(settings)) is Level.WARN

    def unavailable(settings: Settings, *, timeout_seconds: float) -> list[str]:
        raise QueueUnavailable

    monkeypatch.setattr(doctor_command, "ping_workers", unavailable)
    assert level(doctor_command.check_workers(settings)) is Level.WARN


def test_a_database_of_another_version_fails(bare_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "publisher.db").touch()

    (finding,) = doctor_command.check_database(Settings.from_environment())

    assert finding.level is Level.FAIL
    assert "publisher migrate" in finding.message


@pytest.mark.long
def test_a_full_disk_fails(cli: Cli) -> None:
    checks = {each["name"]: each for each in json.loads(cli.run("doctor", "--json").stdout)["checks"]}
    assert checks["disk"]["level"] == "ok"
    result = cli.run("doctor", "--json", PUBLISHER_DISK_FREE_BYTES_MIN=str(1 << 62))
    assert result.exit_code == 1
    checks = {each["name"]: each for each in json.loads(result.stdout)["checks"]}
    assert checks["disk"]["level"] == "fail"
    assert "no ticket can be accepted" in checks["disk"]["message"]


@pytest.mark.long
def test_full_scratch_space_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    def scratch(**variables: str) -> tuple[str, str]:
        checks = json.loads(cli.run("doctor", "--json", **variables).stdout)["checks"]
        (found,) = (each for each in checks if each["name"] == "scratch")
        return found["level"], found["message"]

    elsewhere = str(tmp_path / "elsewhere")
    level, message = scratch(PUBLISHER_SCRATCH_DIR=elsewhere, PUBLISHER_SCRATCH_BYTES_MAX=str(7 << 20))
    assert (level, message) == ("ok", f"converted images go to {elsewhere}, at most 7 MiB")
    level, message = scratch(PUBLISHER_DISK_FREE_BYTES_MIN=str(1 << 62))
    assert level == "warn"
    assert "no image can be converted" in message


@pytest.mark.long
def test_a_database_that_others_can_read_is_a_warning(cli: Cli) -> None:
    def permissions() -> list[str]:
        checks = json.loads(cli.run("doctor", "--json").stdout)["checks"]
        return [each["advice"] for each in checks if each["name"] == "permissions"]

    cli.directory.chmod(0o700)
    (cli.directory / "publisher.db").chmod(0o644)
    assert permissions() == [f"run: chmod 600 {cli.directory / 'publisher.db'}"]
    (cli.directory / "publisher.db").chmod(0o600)
    assert permissions() == [""]


@pytest.mark.long
def test_newer_database_is_reported(cli: Cli, cli_store: Store) -> None:
    with writing(cli_store.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in ("doctor", "migrate"):
        result = cli.run(command)
        assert result.exit_code != 0
        assert "the database is newer than this software" in result.output


def test_it_runs_with_invalid_settings_and_shows_all_of_them(cli: Cli) -> None:
    variables = {
        "PUBLISHER_INTAKE_PORT": "99999",
        "PUBLISHER_LEASE_SECONDS": "-5",
        "PUBLISHER_BROKER_URL": "kafka://mq",
    }
    result = cli.run("doctor", "--json", **variables)

    assert result.exit_code == 1
    checks = json.loads(result.stdout)["checks"]
    failed = [each["message"] for each in checks if each["name"] == "settings"]
    assert [message.partition(":")[0] for message in failed] == [
        *("PUBLISHER_BROKER_URL", "PUBLISHER_INTAKE_PORT", "PUBLISHER_LEASE_SECONDS")
    ]
    found = {each["name"]: each for each in checks}
    assert found["database"]["level"] == "ok"
    # With the default broker, the check would examine another installation.
    for name in ("broker", "worker"):
        assert (found[name]["level"], found[name]["message"]) == ("warn", "not checked: it needs PUBLISHER_BROKER_URL")


PROXY_PASSWORD = "hunter2-of-the-proxy"


def proxy_finding(cli: Cli, **variables: str) -> dict[str, str]:
    result = cli.run("doctor", "--json", **variables)
    assert PROXY_PASSWORD not in result.output
    found: dict[str, str] = {each["name"]: each for each in json.loads(result.stdout)["checks"]}["proxy"]
    return found


def test_it_reports_the_proxy_and_that_it_resolves_names(cli: Cli) -> None:
    assert "proxy" not in levels(json.loads(cli.run("doctor", "--json").stdout))
    with listening() as proxy:
        variables = {"PUBLISHER_HTTP_PROXY": f"http://joe:{PROXY_PASSWORD}@127.0.0.1:{proxy.port}"}
        found = proxy_finding(cli, **variables)
        assert (found["level"], found["message"]) == (
            "ok",
            f"127.0.0.1:{proxy.port} answers; it resolves host names itself",
        )
        ruled = proxy_finding(cli, **variables, PUBLISHER_OUTBOUND_DENY="10.0.0.0/8")
        assert ruled["level"] == "warn"
        assert "cannot be enforced here for all hosts" in ruled["message"]
    gone = proxy_finding(cli, **variables)
    assert (gone["level"], gone["message"]) == (
        "fail",
        f"127.0.0.1:{proxy.port} cannot be reached: Connection refused",
    )
    wrong = proxy_finding(cli, PUBLISHER_HTTP_PROXY=f"https://joe:{PROXY_PASSWORD}@proxy:3128")
    assert (wrong["level"], wrong["message"]) == ("warn", "not checked: it needs PUBLISHER_HTTP_PROXY")
