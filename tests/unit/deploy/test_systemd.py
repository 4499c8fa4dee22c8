"""The systemd units are confined, get their secrets as credentials, and leave time for a drain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.users import verify_password
from tests.records import password_hash
from tests.servers import missing
from tests.unit.cli.test_help import COMMANDS
from tests.unit.deploy.files import DEPLOY, REPOSITORY, unknown_variables

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
RUN = DEPLOY / "systemd" / "publisher-run"
DEPLOYMENT = REPOSITORY / "docs" / "deployment.md"
COMMON = DEPLOY / "systemd" / "publisher-.service.d" / "common.conf"


def directives(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_there_are_four_units() -> None:
    names = ["publisher-flower", "publisher-intake", "publisher-migrate", "publisher-worker@"]
    assert [unit.stem for unit in UNITS] == names


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_unit_runs_an_existing_command(unit: Path) -> None:
    (start,) = directives(unit)["ExecStart"]
    program, command, *_ = start.split()
    assert program == "/opt/publisher/bin/publisher"
    assert command in COMMANDS


def test_all_units_are_confined() -> None:
    common = directives(COMMON)
    assert common["User"] == ["publisher"]
    assert common["CapabilityBoundingSet"] == [""]
    for directive in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictNamespaces"):
        assert common[directive] == ["yes"]
    assert common["ProtectSystem"] == ["strict"]


def test_secrets_are_passed_as_credentials() -> None:
    common = directives(COMMON)
    loaded = {each.split(":")[0] for each in common["LoadCredential"]}
    files = [each for each in common["Environment"] if "_FILE=" in each]
    assert {each.rpartition("%d/")[2] for each in files} == loaded == {"database_url", "broker_url", "publisher_key"}


def test_stop_timeout_is_long_enough_for_a_drain() -> None:
    (seconds,) = directives(DEPLOY / "systemd" / "publisher-worker@.service")["TimeoutStopSec"]
    assert float(seconds) >= Settings().drain_seconds + 10


def test_every_variable_is_a_known_setting() -> None:
    for file in (*UNITS, COMMON, DEPLOY / "systemd" / "publisher.env"):
        assert unknown_variables(file.read_text()) == set()


def test_manual_command_runs_with_the_settings_of_the_units() -> None:
    """A transient unit gets the same user, settings and secrets."""
    text = RUN.read_text()
    asked = dict.fromkeys(re.findall(r"--property=(\S+)", text))
    common = directives(COMMON)
    for directive in ("User", "Group", "EnvironmentFile", "StateDirectory", "StateDirectoryMode", "UMask"):
        assert f"{directive}={common[directive][0]}" in asked
    loaded = {each.removeprefix("LoadCredential=").partition(":")[0] for each in asked if "LoadCredential" in each}
    assert loaded == {each.partition(":")[0] for each in common["LoadCredential"]}
    for each in common["Environment"]:
        name, _, value = each.partition("=")
        assert each in text if not value.startswith("%d/") else f"{name}=$CREDENTIALS_DIRECTORY/{value[3:]}\n" in text
    assert unknown_variables(text) == set()


@pytest.mark.long
def test_the_documented_command_adds_the_first_user(tmp_path: Path, sqlite_url: str) -> None:
    """A stand-in for `systemd-run` runs the command as systemd would, but without changing the user."""
    (command,) = re.findall(r"^# (publisher-run users add .*?) {3}", DEPLOYMENT.read_text(), re.MULTILINE)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "database_url").write_text(sqlite_url)
    (secrets / "broker_url").write_text("redis://127.0.0.1:1/0")
    (tmp_path / "root.password").write_text("open sesame\n")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    publisher = binaries / "publisher"
    publisher.write_text(f'#!/bin/sh\nexec {sys.executable} -m publisher.cli.main "$@"\n')
    standing_in = binaries / "systemd-run"
    standing_in.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    script = binaries / "publisher-run"
    script.write_text(RUN.read_text().replace("/opt/publisher/bin/publisher", str(publisher)))
    for each in binaries.iterdir():
        each.chmod(0o755)
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "CREDENTIALS_DIRECTORY": str(secrets),
        "PUBLISHER_DATA_DIR": str(tmp_path / "data"),
    }

    subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=environment, check=True, timeout=120)  # noqa: S607

    store = Store.open(Settings(database_url=sqlite_url))
    try:
        root = store.users.get("root")
        assert root
        assert root.administrator
        assert verify_password(password_hash(store, "root"), "open sesame")
    finally:
        store.close()


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze") or missing("systemd-analyze")
    units = Path(shutil.copytree(DEPLOY / "systemd", tmp_path / "units"))
    for unit in units.glob("*.service"):
        # The check must not require that the program is installed.
        unit.write_text(unit.read_text().replace("/opt/publisher/bin/publisher", "/bin/true"))
    names = [str(units / unit.name.replace("@.", "@1.")) for unit in UNITS]
    checked = subprocess.run(
        [program, "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
