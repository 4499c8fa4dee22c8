"""Work that one worker of the fleet does for all: the reconciler, the webhook sender, the sweeper."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from publisher.store import Store

logger = logging.getLogger(__name__)


class LeaderLoop:
    """Runs turns on the worker that holds a role, until the worker stops."""

    def __init__(
        self,
        store: Store,
        role: str,
        *,
        holder: str,
        look_seconds: float,
        term_seconds: float,
        stop: threading.Event,
        renews: bool = True,
    ) -> None:
        """Every `look_seconds` the worker has a turn if it holds the role, which lasts for `term_seconds`.

        It renews the role once half of that is over. If it does not renew the role, nobody has another turn until the
        term is over, not even itself.
        """
        self.elected = False
        self._store = store
        self._role = role
        self._holder = holder
        self._look_seconds = look_seconds
        self._term_seconds = term_seconds
        self._stop = stop
        self._renews = renews
        self._renew_at = -math.inf

    def run(self, turn: Callable[[], object]) -> None:
        """Run `turn` whenever this worker holds the role. What it raises is logged: the next turn may go well."""
        while not self._stop.wait(self._look_seconds):
            try:
                if not self.elected or time.monotonic() >= self._renew_at:
                    self._ask()
                if self.elected:
                    turn()
            except SQLAlchemyError as error:
                self.elected = False
                logger.warning("%s: the store did not answer: %s", self._role, type(error).__name__)
            except Exception:  # there may be no other worker to do it
                logger.exception("%s: unexpected", self._role)
        self._resign()

    def _ask(self) -> None:
        """Ask for the role, or renew it."""
        asked = time.monotonic()
        # A name that is new at each turn can renew nothing.
        name = self._holder if self._renews else f"{self._holder}-{uuid.uuid4()}"
        self.elected = self._store.leadership.acquire(self._role, name, self._term_seconds)
        self._renew_at = asked + (self._term_seconds / 2 if self._renews else 0)

    def _resign(self) -> None:
        if self._renews:
            try:
                # Another worker takes over at once.
                self._store.leadership.resign(self._role, self._holder)
            except SQLAlchemyError as error:
                logger.warning("%s: the store did not answer: %s", self._role, type(error).__name__)
