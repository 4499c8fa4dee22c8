"""Every process collects the same tests: xdist runs none if its processes found different ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.clocks import wrong_clock
from tests.stack import REPOSITORY

COLLECT = """\
import sys
import pytest

def plain(value):
    if isinstance(value, (str, bytes, int, float)):
        return ascii(value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {plain(name): plain(each) for name, each in value.items()}
    return type(value).__name__

class Found:
    def pytest_collection_finish(self, session):
        with open(sys.argv[1], "w") as out:
            for item in session.items:
                values = plain(item.callspec.params) if hasattr(item, "callspec") else ""
                out.write(f"{ascii(item.nodeid)} {values}\\n")

sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider"], plugins=[Found()]))
"""
"""Writes each test with the values of its parameters, because equal ids can hide different values."""


@pytest.mark.long
def test_collection_is_independent_of_clock_seed_and_directories(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environments = {
        "now": {"PYTHONHASHSEED": "1", "TZ": "UTC"},
        # A minute later, by a shifted clock instead of a sleep.
        "later": {"PYTHONHASHSEED": "2", "TZ": "Pacific/Auckland", "TMPDIR": str(elsewhere), "HOME": str(elsewhere)}
        | wrong_clock("+61s"),
    }
    running = {}
    for name, variables in environments.items():
        with (tmp_path / f"{name}.out").open("wb") as out:
            running[name] = subprocess.Popen(
                [sys.executable, "-c", COLLECT, tmp_path / name],
                cwd=REPOSITORY, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
    try:
        for name, process in running.items():
            assert process.wait(900) == 0, (tmp_path / f"{name}.out").read_text()[-4000:]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    now, later = ((tmp_path / name).read_text().splitlines() for name in environments)
    assert len(now) > 5000
    assert [pair for pair in zip(now, later, strict=True) if len(set(pair)) > 1] == []
