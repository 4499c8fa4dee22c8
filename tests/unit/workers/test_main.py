"""`python -m workers`."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.patience import PATIENCE
from workers.__main__ import main


class Worker:
    """Records what it is made with, and ends with exit code 7."""

    made_with: dict[str, Any]
    exitcode = 7

    def __init__(self, **options: Any) -> None:
        Worker.made_with = options

    def start(self) -> None:
        """End at once."""


def test_a_worker_gets_its_name_and_log_level_and_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "an_app", SimpleNamespace(app=SimpleNamespace(Worker=Worker)))

    assert main(["--app", "an_app", "--name", "second@%h", "--loglevel", "WARNING"]) == 7

    options = Worker.made_with
    assert (options["hostname"], options["loglevel"]) == (f"second@{socket.gethostname()}", logging.WARNING)
    assert (options["without_gossip"], options["without_mingle"]) == (True, True)


@pytest.mark.long
def test_a_worker_imports_neither_flower_nor_what_only_rare_work_needs() -> None:
    program = "import sys, workers.__main__, workers.app, workers.tasks; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 * PATIENCE)

    rare = {"aiohttp", "flower", "fsspec", "oslo_utils", "prompt_toolkit", "standardwebhooks", "tornado"}
    assert set(said.stdout.split()) & rare == set()
