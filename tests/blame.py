"""Each failure names one test: what a test leaves open fails that test, and what a failed test leaves open fails none.

A socket that nobody closed complains when the interpreter finds it, which without this is in the middle of some later
test. `tests/conftest.py` registers these hooks.
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
"""The generation of what is left of earlier tests; what one test makes stays in those before, however much it is."""


def pytest_collection_finish() -> None:
    gc.set_threshold(100_000, 50, 1000)
    gc.collect()
    _freeze()


def _freeze() -> None:
    """Count all there is as no garbage: to look for what a test left takes a tenth of a second otherwise.

    What later tests share (an app, a cloud) is added as it comes, and let go of now and then, once it is of no use.
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
            # The test's arguments are of no use any more.
            getattr(item, "funcargs", {}).clear()
            began = time.process_time()
            # What the tests of a file shared is given up after the last of them.
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
        # The last error holds its frames, and they what the test had open.
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            if hasattr(sys, name):
                delattr(sys, name)
        with _complaints(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return done


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What is said meanwhile by those who cannot raise an error."""
    heard: list[str] = []

    def hear(what: sys.UnraisableHookArgs, /) -> None:
        heard.append(f"{what.exc_type.__name__}: {what.exc_value}")

    before, sys.unraisablehook = sys.unraisablehook, hear
    try:
        yield heard
    finally:
        sys.unraisablehook = before
