"""An interrupted registration leaves nothing behind; a terminal shows a progress bar."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publisher.store import Store
from tests.command import Cli
from tests.unit.cli.terminal import on_a_terminal

pytestmark = pytest.mark.long

MIB = 1 << 20
PUBLISHER = [sys.executable, "-m", "publisher.cli.main"]
COMMANDS = {
    "images add": ["images", "add", "--format", "raw"],
    "publish": ["publish", "--platform", "memory", "--login", "x", "--format", "raw"],
}
DATA = os.urandom(16 * MIB)
FILE_BYTES = 16 * len(DATA)


def bytes_read(process: subprocess.Popen[str]) -> int:
    io = Path(f"/proc/{process.pid}/io").read_text()
    return int(io.partition("rchar: ")[2].split()[0])


def has_open(process: subprocess.Popen[str], file: Path) -> bool:
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if descriptor.readlink() == file:
                return True
    return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("directory", "kept"), [(".", []), ("images", ["disk.img"])], ids=["copying", "hashing"])
@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_registration_leaves_nothing_behind(
    cli: Cli, cli_store: Store, command: str, directory: str, kept: list[str], number: signal.Signals
) -> None:
    """A file outside the image root is copied while it is hashed; a file inside is only hashed, and stays."""
    root = cli.directory / "images"
    root.mkdir()
    file = cli.directory / directory / "disk.img"
    with file.open("wb") as opened:
        for _ in range(FILE_BYTES // len(DATA)):
            opened.write(DATA)

    arguments = [*PUBLISHER, *COMMANDS[command], str(file)]
    variables = os.environ | {"OS_PASSWORD": "x"}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=variables) as process:
        before = None
        # Wait until the format has been detected at the beginning of the file.
        while before is None or bytes_read(process) < before + 2 * len(DATA):
            assert process.poll() is None
            if before is None and has_open(process, file):
                before = bytes_read(process)
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        on_its_way = has_open(process, file)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=600)

    assert on_its_way
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert [str(each.relative_to(root)) for each in root.rglob("*") if not each.name.startswith(".")] == kept
    assert cli_store.images.list() == []
    assert sum(cli_store.publications.counts().values()) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_progress_bar_is_shown_only_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("OS_PASSWORD", "x")
    file = cli.image_file("disk.img", DATA)
    code, shown = on_a_terminal(*COMMANDS[command], str(file), terminal="xterm")
    assert code == 0
    assert "Registering disk.img" in shown
    result = cli.run(*COMMANDS[command], file)
    assert result.exit_code == 0
    assert "Registering" not in result.output
