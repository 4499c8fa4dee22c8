"""The order of the tests, and their distribution over xdist's processes.

The longest files come first, then those with real servers: they wait a lot, and the others, which compute, fill the
gaps at the end. The tests of a file run in one process because they share what the file's fixtures start. Only the
tests of the files in APART, which share nothing, run in any free process. `tests/conftest.py` registers these hooks.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

LONGEST = (
    "tests/unit/intake/test_http_schemathesis.py",
    "tests/integration/test_devcloud.py",
    "tests/browser/test_pages.py",
    "tests/chaos/test_chaos.py",
    "tests/integration/test_up.py",
    "tests/browser/test_publications.py",
    "tests/integration/test_promises.py",
    "tests/integration/test_publish.py",
    "tests/integration/test_moved_clocks.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_broker_tls.py",
    "tests/integration/test_sweep.py",
    "tests/integration/test_readme.py",
    "tests/browser/test_forms.py",
    "tests/contract/test_cloud_plugins.py",
    "tests/contract/test_parts.py",
    "tests/contract/test_preflights.py",
    "tests/contract/test_attributes.py",
    "tests/contract/test_withdrawals.py",
    "tests/unit/intake/test_http_connections.py",
    "tests/unit/workers/test_transfer.py",
    "tests/unit/workers/test_transfer_parts.py",
    "tests/integration/test_queue.py",
    "tests/integration/test_publish_refused.py",
    "tests/integration/test_preflight.py",
    "tests/integration/test_observed.py",
    "tests/unit/intake/test_http_elements.py",
    "tests/unit/intake/test_http_contract.py",
)
"""If one of these started last, a core would be idle at the end."""

APART = (
    "tests/unit/intake/test_http_elements.py",
    "tests/unit/intake/test_http_schemathesis.py",
    "tests/integration/test_broker_tls.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_moved_clocks.py",
    "tests/integration/test_promises.py",
    "tests/integration/test_publish.py",
)


_MARK_OF_ALL = re.compile(r"^pytestmark = pytest\.mark\.(\w+)$", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files whose tests are all deselected: importing them would cost each process a second."""
    wanted = str(config.getoption("markexpr")).split(" and ")
    if collection_path.suffix != ".py" or not all(each.startswith("not ") for each in wanted):
        return None
    mark = _MARK_OF_ALL.search(collection_path.read_text())
    return True if mark and f"not {mark[1]}" in wanted else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    real = {file_of(item.nodeid) for item in items if item.get_closest_marker("real")}

    def place(item: pytest.Item) -> tuple[int, bool]:
        file = file_of(item.nodeid)
        return places.get(file, len(LONGEST)), file not in real

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


class ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        return nodeid if file_of(nodeid) in APART else file_of(nodeid)


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]
