"""Hooks that blame the right test for open resources: the test that left one open fails, and no later one.

The interpreter warns of an unclosed socket when it collects it, which without these hooks happens during some later
test. Resources that a failed test left open cause no further failure. `tests/conftest.py` registers the hooks.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

_FAILED = pytest.StashKey[bool]()


_QUICK_SECONDS = 0.003
_FREEZES_AT_MOST = 64
_freezes = 0
_OLD = 2
"""The generation of objects that survived earlier tests. Objects of a single test stay in the younger generations."""


gc.set_threshold(100_000, 50, 1000)  # also while the tests are imported


def pytest_collection_finish() -> None:
    gc.collect()
    _freeze()


def _freeze() -> None:
    """Exclude all present objects from garbage collection. Otherwise each test's collection takes a tenth of a second.

    Objects that later tests share (an app, a cloud) are frozen as they appear. Now and then everything is unfrozen, so
    that unused objects can be collected.
    """
    global _freezes
    _freezes += 1
    if _freezes % _FREEZES_AT_MOST == 0:
        gc.unfreeze()
        with _complaints():
            gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    done = yield
    if not item.stash.get(_FAILED, False):
        with _complaints() as heard:
            # The test no longer needs its arguments.
            getattr(item, "funcargs", {}).clear()
            began = time.process_time()
            # After the last test of a file, collect what its tests shared.
            gc.collect(_OLD if nextitem is None or nextitem.path != item.path else _OLD - 1)
            if time.process_time() - began > _QUICK_SECONDS:
                _freeze()
        if heard:
            pytest.fail("left open: " + "; ".join(heard), pytrace=False)
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    done = yield
    if item.stash.get(_FAILED, False):
        # The last error refers to its frames, and these to the resources that the test had open.
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            if hasattr(sys, name):
                delattr(sys, name)
        with _complaints(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return done


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect the errors that are raised meanwhile where Python can only report them (in `__del__`)."""
    heard: list[str] = []

    def hear(what: sys.UnraisableHookArgs, /) -> None:
        heard.append(f"{what.exc_type.__name__}: {what.exc_value}")

    before, sys.unraisablehook = sys.unraisablehook, hear
    try:
        yield heard
    finally:
        sys.unraisablehook = before
