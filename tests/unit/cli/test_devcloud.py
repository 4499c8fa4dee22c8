from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from publisher.devcloud.cloud import DevCloud
from publisher.devcloud.config import DevCloudError
from tests.command import Cli


def test_devcloud_env_quotes_values_for_the_shell(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"OS_USERNAME": "demo", "OS_PASSWORD": "a b'$c"}
    monkeypatch.setattr(DevCloud, "env", lambda self, user: variables)

    script = bare_cli.ok("devcloud", "env") + 'printf %s "$OS_PASSWORD"'

    assert subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode() == "a b'$c"  # noqa: S607
    assert bare_cli.json("devcloud", "env") == variables


def test_devcloud_up_chooses_its_directory_and_venv(
    bare_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkout = tmp_path_factory.mktemp("checkout")
    monkeypatch.setattr("sys.prefix", str(checkout / ".venv"))
    seen: list[tuple[Path, Path]] = []
    monkeypatch.setattr(DevCloud, "up", lambda self, say, host: seen.append((self.directory, self.venv)))

    bare_cli.ok("devcloud", "up")
    bare_cli.ok("devcloud", "up", PUBLISHER_DEVCLOUD_VENV="/opt/venv")
    # `make demo` and `make test` create this directory.
    (checkout / ".venv-devcloud").mkdir()
    bare_cli.ok("devcloud", "up")

    data = bare_cli.directory / "devcloud"
    beside = checkout / ".venv-devcloud"
    assert seen == [(data, bare_cli.directory / "devcloud-venv"), (data, Path("/opt/venv")), (data, beside)]


def test_status_of_a_stopped_devcloud_exits_with_1(bare_cli: Cli) -> None:
    result = bare_cli.run("devcloud", "status", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"running": False, "keystone_url": None, "glance_url": None}
    assert "publisher devcloud up" in bare_cli.run("devcloud", "status").stdout


def test_devcloud_error_is_printed_unchanged(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: DevCloud, say: object, host: str) -> None:
        raise DevCloudError("no compiler")

    monkeypatch.setattr(DevCloud, "up", fail)
    result = bare_cli.run("devcloud", "up")

    assert result.exit_code == 1
    assert result.stderr == "Error: no compiler\n"


@pytest.mark.long
def test_devcloud_up_with_stay_runs_until_sigterm(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def up(self: DevCloud, say: object, host: str) -> None:
        seen.append(f"up on {host}")
        # Sent from another thread, once this one waits: without a waiting thread the signal ends the test run.
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    monkeypatch.setattr(DevCloud, "up", up)
    monkeypatch.setattr(DevCloud, "down", lambda self: seen.append("down"))
    try:
        bare_cli.ok("devcloud", "up", "--host", "devcloud", "--stay")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert seen == ["up on devcloud", "down"]
