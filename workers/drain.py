"""How a worker stops: it takes no new tickets, continues its uploads for a while, and hands the rest back.

After any signal, Celery runs its warm shutdown, which waits for the threads. Threads cannot be killed, so Celery's cold
shutdown would wait for them, too, and would notify them only afterwards. This module decides how long that takes.
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
    """The request to stop.

    After the first request, uploads may continue for `seconds`; after a second one, or with `now`, they stop
    immediately.
    """

    def __init__(self, seconds: float) -> None:
        self.begun = threading.Event()
        self._seconds = seconds
        self._asked = False
        self._until = math.inf
        self._listening = False

    def ask(self, *, now: bool = False) -> None:
        """Ask the worker to drain. May be called by a signal handler, even while an earlier call is running."""
        if now or self._asked:
            self._until = -math.inf
        else:
            self._until = time.monotonic() + self._seconds
        # Set the event only once: the call that this one interrupts may hold the event's lock.
        if not self._asked:
            self._asked = True
            self.begun.set()

    @property
    def over(self) -> bool:
        """Whether the time is up and unfinished work must be handed back."""
        return time.monotonic() >= self._until

    def begin(self) -> None:
        """Stop this process as a first SIGTERM does. May be called from any thread.

        Does nothing if the process is stopping already, or before `listen` was called.
        """
        if self._listening and not self._asked:
            os.kill(os.getpid(), signal.SIGTERM)

    def listen(self) -> None:
        """Handle signals: SIGTERM and SIGINT drain, SIGQUIT stops immediately.

        Call it in the main thread, after Celery has set its own handlers.
        """
        warm = signal.getsignal(signal.SIGTERM)

        def asked(number: int, frame: FrameType | None) -> None:
            self.ask(now=number == signal.SIGQUIT)
            if callable(warm):
                warm(number, frame)

        for each in _SIGNALS:
            signal.signal(each, asked)
        self._listening = True
