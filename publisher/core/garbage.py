"""Python's collections of garbage: when they are worth their time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def collect_rarely() -> None:
    """Make collections rare, for a process that keeps much.

    Thousands of waiting callers are hundreds of thousands of live objects. Scanning them takes a sixth of the time of a
    request.
    """
    gc.set_threshold(100_000, 50, 1000)


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect nothing inside, where modules are imported: they stay. Scanning them takes a tenth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
