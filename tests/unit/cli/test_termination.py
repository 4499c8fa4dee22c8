"""A registration that is ended on its way leaves nothing behind, and shows a bar on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publisher.core.store import Store
from tests.unit.cli.conftest import Cli
from tests.unit.cli.terminal import on_a_terminal

pytestmark = pytest.mark.long

MIB = 1 << 20
PUBLISHER = [sys.executable, "-m", "publisher.cli.main"]
COMMANDS = {
    "images add": ["images", "add", "--format", "raw"],
    "publish": ["publish", "--platform", "memory", "--login", "x", "--format", "raw"],
}
DATA = os.urandom(MIB) * 64
"""Not all of it can be copied, nor hashed, before it is noticed that it has begun."""


def brought(root: Path) -> int:
    """Bytes of the files that are under the image root."""
    return sum(each.stat().st_size for each in root.rglob("*") if each.is_file())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["copying", "hashing"])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left(cli: Cli, cli_store: Store, command: str, where: str, number: signal.Signals) -> None:
    mebibytes = 1024 if where == "copying" else 256
    file = cli.directory / "disk.img"
    with file.open("wb") as opened:
        for _ in range(0, mebibytes, 64):
            opened.write(DATA)
    root = cli.directory / "images"

    with subprocess.Popen(
        [*PUBLISHER, *COMMANDS[command], file], stderr=subprocess.PIPE, text=True, env=os.environ | {"OS_PASSWORD": "x"}
    ) as process:
        wanted = 1 if where == "copying" else mebibytes * MIB
        while brought(root) < wanted:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        copied = brought(root)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=120)

    assert (copied < mebibytes * MIB) == (where == "copying")
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in said
    assert [each for each in root.rglob("*") if not each.name.startswith(".")] == []
    assert cli_store.images.list() == []
    assert cli_store.tickets.counts() == dict.fromkeys(cli_store.tickets.counts(), 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bar_on_a_terminal_and_nowhere_else(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("OS_PASSWORD", "x")
    file = cli.image_file("disk.img", DATA)
    code, shown = on_a_terminal(*COMMANDS[command], str(file), terminal="xterm")
    assert code == 0
    assert "Registering disk.img" in shown
    result = cli.run(*COMMANDS[command], file)
    assert result.exit_code == 0
    assert "Registering" not in result.output
