"""In CI a test that skips itself fails: whatever it lacks must be installed there.

A test that does not apply to this kind of machine must have a `skipif` mark.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marked = call.when == "setup" and any(item.iter_markers("skipif"))
    if "CI" in os.environ and report.skipped and not hasattr(report, "wasxfail") and not marked:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr[2] if isinstance(report.longrepr, tuple) else ''}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if "CI" in os.environ and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr[2] if isinstance(report.longrepr, tuple) else ''}"
    return report
