"""Which tests with real servers run in which order, and in which of xdist's processes.

The tests of a file run in one process, as they share what the file's fixtures start; those of the longest files, whose
fixtures start nothing that is shared, run wherever there is time. `tests/conftest.py` registers these hooks.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

LONGEST = (
    "tests/unit/intake/test_http_schemathesis.py",
    "tests/chaos/test_chaos.py",
    "tests/browser/test_pages.py",
    "tests/browser/test_publications.py",
    "tests/integration/test_up.py",
    "tests/integration/test_readme.py",
    "tests/integration/test_promises.py",
    "tests/integration/test_devcloud.py",
    "tests/integration/test_moved_clocks.py",
    "tests/integration/test_sweep.py",
    "tests/contract/test_cloud_plugins.py",
    "tests/browser/test_forms.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_broker_tls.py",
    "tests/integration/test_queue.py",
    "tests/integration/test_observed.py",
    "tests/integration/test_publish.py",
)
"""Begun last, one of these would keep one core idle at the end."""

APART = (
    "tests/unit/intake/test_http_schemathesis.py",
    "tests/integration/test_broker_tls.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_moved_clocks.py",
    "tests/integration/test_promises.py",
    "tests/integration/test_publish.py",
    "tests/integration/test_up.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(file_of(item.nodeid), len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


class ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        return nodeid if file_of(nodeid) in APART else file_of(nodeid)


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]
