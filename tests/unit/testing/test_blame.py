"""If a test leaves something open, only that test fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import REPOSITORY

CONFTEST = """\
from tests import blame

def pytest_configure(config):
    config.pluginmanager.register(blame)
"""
"""Registers the plugin as `tests/conftest.py` does."""
FILES = {
    "fails": """\
import socket

def test_fails():
    server = socket.create_server(("127.0.0.1", 0))
    assert not server

def test_passes():
    pass
""",
    "fixture fails": """\
import pytest, socket

@pytest.fixture
def server():
    server = socket.create_server(("127.0.0.1", 0))
    yield server
    raise ValueError("no")

def test_fails(server):
    assert server

def test_passes():
    pass
""",
    "only leaves it": """\
import socket

class Holder:
    pass

def test_fails():
    holder = Holder()
    holder.itself = holder
    holder.server = socket.create_server(("127.0.0.1", 0))

def test_passes():
    pass
""",
    "fixture leaves it": """\
import pytest, socket

@pytest.fixture
def server():
    return socket.create_server(("127.0.0.1", 0))

def test_fails(server):
    assert server

def test_passes():
    pass
""",
}


@pytest.mark.long
@pytest.mark.parametrize("how", FILES)
def test_open_resource_fails_only_the_test_that_left_it(tmp_path: Path, how: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_file.py").write_text(FILES[how])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--no-header"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    words = done.stdout[done.stdout.index("short test summary") :]
    blamed = {line.split("::")[1].split(" ")[0] for line in words.splitlines() if line.startswith(("FAILED", "ERROR"))}
    assert blamed == {"test_fails"}, done.stdout
    assert "PASSED test_file.py::test_passes" in words
