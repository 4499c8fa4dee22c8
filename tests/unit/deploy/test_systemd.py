"""The systemd units: confined, with their secrets as credentials, and patient with a drain."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from publisher.core.settings import Settings
from tests.servers import missing
from tests.unit.cli.test_help import COMMANDS
from tests.unit.deploy.files import DEPLOY, unknown_variables

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMMON = DEPLOY / "systemd" / "publisher-.service.d" / "common.conf"


def directives(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_units_that_there_are() -> None:
    names = ["publisher-flower", "publisher-intake", "publisher-migrate", "publisher-worker@"]
    assert [unit.stem for unit in UNITS] == names


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_unit_runs_a_command_that_there_is(unit: Path) -> None:
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


def test_secrets_are_credentials() -> None:
    common = directives(COMMON)
    loaded = {each.split(":")[0] for each in common["LoadCredential"]}
    files = [each for each in common["Environment"] if "_FILE=" in each]
    assert {each.rpartition("%d/")[2] for each in files} == loaded == {"database_url", "broker_url", "publisher_key"}


def test_a_worker_may_drain_before_it_is_killed() -> None:
    (seconds,) = directives(DEPLOY / "systemd" / "publisher-worker@.service")["TimeoutStopSec"]
    assert float(seconds) >= Settings().drain_seconds + 10


def test_every_variable_is_one_that_is_read() -> None:
    for file in (*UNITS, COMMON, DEPLOY / "systemd" / "publisher.env"):
        assert unknown_variables(file.read_text()) == set()


def test_systemd_accepts_them(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze") or missing("systemd-analyze")
    units = Path(shutil.copytree(DEPLOY / "systemd", tmp_path / "units"))
    for unit in units.glob("*.service"):
        # The program need not be installed for the units to be checked.
        unit.write_text(unit.read_text().replace("/opt/publisher/bin/publisher", "/bin/true"))
    names = [str(units / unit.name.replace("@.", "@1.")) for unit in UNITS]
    checked = subprocess.run(
        [program, "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
