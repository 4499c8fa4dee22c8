"""Record in the store every few seconds that this worker lives, and learn there that it must drain.

The heartbeat continues while the worker drains, and ends with the process.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from publisher.store import Fleet, Member
from publisher.telemetry.logs import with_context
from publisher.version import __version__
from workers.drain import Drain

logger = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 5.0


def this_worker(name: str, *, node: str, concurrency: int) -> Member:
    """Return how this process describes itself. Celery and Flower know it as `node`."""
    return Member(name, socket.gethostname(), os.getpid(), node, __version__, concurrency)


class Heartbeat:
    def __init__(self, fleet: Fleet, member: Member, seconds: float, drain: Drain) -> None:
        self._fleet = fleet
        self._member = member
        self._seconds = seconds
        self._drain = drain
        self._joined = False
        self._away = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=with_context(self._keep), name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Record that the worker has ended normally. A store that does not answer delays this only briefly."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join(_LAST_WORDS_SECONDS)

    def _keep(self) -> None:
        while not self._ended.is_set():
            self._try(self._beat)
            self._ended.wait(self._seconds)
        self._try(self._leave)

    def _beat(self) -> None:
        if not self._joined:
            self._fleet.join(self._member)
            self._joined = True
        elif self._fleet.beat(self._member, draining=self._drain.begun.is_set()):
            self._drain.begin()

    def _leave(self) -> None:
        self._fleet.stopped(self._member.name)

    def _try(self, say: Callable[[], None]) -> None:
        """Call `say` and survive its failure: the next beat tries again, and the work does not depend on it."""
        try:
            say()
        except SQLAlchemyError as error:
            if not self._away:
                logger.warning("the store did not answer the heartbeat: %s", type(error).__name__)
            self._away = True
        except Exception:  # a mistake must not make a live worker look dead
            if not self._away:
                logger.exception("unexpected, at the heartbeat")
            self._away = True
        else:
            self._away = False
