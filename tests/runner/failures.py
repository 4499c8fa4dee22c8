"""A pytest plugin that writes each failure at once, one per line, to the file that FAILURES_FILE names.

So an interrupted run can still report its failures.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "FAILURES_FILE"


class _Writer:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._written: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._write(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid)

    def _write(self, name: str) -> None:
        if name not in self._written:
            self._written.add(name)
            with self._file.open("a") as out:
                out.write(f"{name}\n")


def pytest_configure(config: pytest.Config) -> None:
    # The processes of xdist report to the main process, and only that one writes.
    if VARIABLE in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(Path(os.environ[VARIABLE])))
