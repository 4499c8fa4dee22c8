"""Read single keys from a terminal, without Return."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Pressed = Callable[[float], str]
"""Returns the key that is pressed within a number of seconds; empty if none is."""


@contextmanager
def keys() -> Iterator[Pressed]:
    """Read single key presses. If standard input is not a terminal, no key is ever pressed."""
    if not sys.stdin.isatty():
        yield _none
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)  # Ctrl-C still interrupts
        yield lambda seconds: sys.stdin.read(1) if select.select([terminal], [], [], seconds)[0] else ""
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _none(seconds: float) -> str:
    time.sleep(seconds)
    return ""
