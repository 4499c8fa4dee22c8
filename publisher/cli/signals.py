"""End a command in order: what it has begun is undone first."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command by an exception within the block, as Ctrl-C does by itself.

    The exit code is then 128 plus the signal's number. A second signal does not interrupt the clean-up.
    """
    # Signals that are ignored stay ignored: `nohup` relies on that.
    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.signal(number, _end) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
