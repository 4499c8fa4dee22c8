"""Wake tickets that no worker holds although one should.

These are tickets whose message was lost or never sent, whose worker died, or whose next attempt is due; and likewise
the images that wait for registration. It also withdraws images that have expired. Every worker has a reconciler; one
at a time is elected through the store.
"""

from __future__ import annotations

import logging
import threading
import time

from publisher.core.errors import QueueUnavailable
from publisher.core.settings import Settings
from publisher.files import unfinished
from publisher.services.wakeups import WakeQueue
from publisher.store import Store, WorkerState
from workers.leader_loop import LeaderLoop
from workers.scratch import discard_abandoned_scratch

logger = logging.getLogger(__name__)

ROLE = "reconciler"
_TERM_TURNS = 3
"""Number of turns after which another reconciler takes over from one that does not renew its role."""

_PURGE_SECONDS = 600.0
_SILENT_KEPT_SECONDS = 86400.0
"""How long a worker is remembered after its last heartbeat."""


class Reconciler:
    def __init__(
        self, store: Store, queue: WakeQueue, settings: Settings, *, holder: str, stop: threading.Event
    ) -> None:
        self._store = store
        self._queue = queue
        self._loop = LeaderLoop(
            store,
            ROLE,
            holder=holder,
            look_seconds=settings.reconcile_seconds,
            term_seconds=settings.reconcile_seconds * _TERM_TURNS,
            stop=stop,
        )
        self._settings = settings
        self._purge_at = time.monotonic()

    def run(self) -> None:
        """Run a turn every `reconcile_seconds` while elected, until the worker stops."""
        self._loop.run(self._purge_and_turn)
        self._queue.close()

    def _purge_and_turn(self) -> None:
        try:
            self._purge()
            self._expire()
            self.turn()
        except QueueUnavailable as error:
            logger.warning("%s; tickets stay queued until it is back", error)

    def _purge(self) -> None:
        """Delete old records and files, every `_PURGE_SECONDS`.

        Code that reads a key ignores it once it has expired, so this may be late.
        """
        if time.monotonic() >= self._purge_at:
            self._purge_at = time.monotonic() + _PURGE_SECONDS
            discard_abandoned_files(self._store, self._settings)
            self._store.idempotency_keys.purge(self._settings.idempotency_seconds)
            self._store.checks.purge()
            self._store.fleet.forget(_SILENT_KEPT_SECONDS)

    def _expire(self) -> None:
        """Announce the expiry of images whose time comes, and withdraw those that have expired."""
        for ticket_id in self._store.expiries.due():
            self._store.expiries.advance(ticket_id)

    def _free_threads(self) -> int:
        """Return how many more tickets the workers could take now."""
        silent_seconds = self._settings.silent_seconds
        workers = [each for each in self._store.fleet.workers() if each.state(silent_seconds) is WorkerState.ALIVE]
        return sum(max(0, each.member.concurrency - len(each.ticket_ids)) for each in workers)

    def turn(self) -> int:
        """Wake every ticket and every image that is due, and return their number. Raises `QueueUnavailable`."""
        if not self._store.tickets.anything_due():
            return 0
        if free := self._free_threads():
            self._store.tickets.hasten(free)
        due = self._store.tickets.due()
        for ticket_id in due:
            self._queue.send(ticket_id)
            self._store.tickets.woken(ticket_id, sent=True)
        images = self._store.registrations.due()
        for image_id in images:
            self._queue.send_image(image_id)
            self._store.registrations.woken(image_id, sent=True)
        return len(due) + len(images)


def discard_abandoned_files(store: Store, settings: Settings) -> None:
    """Delete the files that killed processes of this machine have left, under the image root and as scratch files."""
    unfinished.discard_abandoned(settings.images, store.images.has_file)
    discard_abandoned_scratch(settings.scratch)
