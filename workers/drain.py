"""How a worker stops: it takes nothing new, what it has goes on for a while, and the rest is handed back.

Whatever the signal, Celery's own shutdown is the warm one, which waits for the threads: they cannot be killed, so its
cold one would wait for them as well, and would tell them of it only afterwards. How long that takes is decided here.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Drain:
    """Asked once, uploads may go on for `seconds`; asked again, or at once, they stop now."""

    def __init__(self, seconds: float) -> None:
        self.begun = threading.Event()
        self._seconds = seconds
        self._asked = False
        self._until = math.inf
        self._listening = False

    def ask(self, *, now: bool = False) -> None:
        """May be called by a signal's handler, in the middle of an earlier call too."""
        if now or self._asked:
            self._until = -math.inf
        else:
            self._until = time.monotonic() + self._seconds
        # Never a second time: the call that this one interrupts may hold the event's lock.
        if not self._asked:
            self._asked = True
            self.begun.set()

    @property
    def over(self) -> bool:
        """What is not finished is to be handed back."""
        return time.monotonic() >= self._until

    def begin(self) -> None:
        """Stop this process as a first SIGTERM does, from any thread; nothing where it stops already, or where nobody
        listens."""
        if self._listening and not self._asked:
            os.kill(os.getpid(), signal.SIGTERM)

    def listen(self) -> None:
        """Be asked by SIGTERM and SIGINT, at once by SIGQUIT. After Celery has set its handlers, in the main thread."""
        warm = signal.getsignal(signal.SIGTERM)

        def asked(number: int, frame: FrameType | None) -> None:
            self.ask(now=number == signal.SIGQUIT)
            if callable(warm):
                warm(number, frame)

        for each in _SIGNALS:
            signal.signal(each, asked)
        self._listening = True
