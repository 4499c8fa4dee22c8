"""Readiness checks: whether a process can do its work, for whatever routes requests to it or restarts it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from publisher.core.errors import PublisherError, QueueUnavailable
from publisher.core.settings import Settings
from publisher.services.wakeups import WakeQueue
from publisher.store import Store

_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The result of one check: what is wrong, if anything, and whether the process is not ready then (`needed`)."""

    wrong: str | None
    needed: bool = True


class Readiness:
    """Runs the checks. Results are cached for one second so that probes stay cheap. Thread-safe."""

    def __init__(self, checks: Mapping[str, Callable[[], ReadinessCheck]]) -> None:
        self._checks = checks
        self._lock = threading.Lock()
        self._until = 0.0
        self._report: tuple[bool, dict[str, Any]] = False, {}

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the process is ready, and the results of all checks as JSON values."""
        with self._lock:
            if time.monotonic() >= self._until:
                found = {name: check() for name, check in self._checks.items()}
                ready = all(each.wrong is None for each in found.values() if each.needed)
                checks = {
                    name: {"ok": each.wrong is None, "needed": each.needed}
                    | ({"detail": each.wrong} if each.wrong else {})
                    for name, each in found.items()
                }
                self._report = ready, {"ready": ready, "checks": checks}
                self._until = time.monotonic() + _FRESH_SECONDS
            return self._report


def store_check(store: Store) -> ReadinessCheck:
    """Check that the store answers and has the tables of this version, or of a later one, as during an upgrade."""
    try:
        store.check_schema(or_newer=True)
    except PublisherError as error:
        return ReadinessCheck(str(error))
    except SQLAlchemyError as error:
        return ReadinessCheck(f"the store does not answer: {type(error).__name__}")
    return ReadinessCheck(None)


def disk_check(settings: Settings) -> ReadinessCheck:
    """Check the free disk space: for the ticket store, if it is SQLite, and for images.

    Without space for the store no ticket can be accepted. Without space for images, publishing continues.
    """
    database = make_url(settings.database)
    directory = Path(database.database or "").parent
    if database.get_backend_name() == "sqlite" and (full := disk_shortage(settings, directory)):
        return ReadinessCheck(f"{full}; no ticket can be accepted")
    if full := disk_shortage(settings, settings.images):
        return ReadinessCheck(f"{full}; no image can be registered", needed=False)
    return ReadinessCheck(None)


def disk_shortage(settings: Settings, directory: Path) -> str | None:
    """Return what is wrong with the free space on a directory's disk; None if there is enough.

    If the directory does not exist yet, its nearest existing parent counts.
    """
    existing = next((each for each in (directory, *directory.absolute().parents) if each.exists()), directory)
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return f"the free space of {directory} cannot be read: {error.strerror}"
    if free < settings.disk_free_bytes_min:
        return f"{free >> 20} MiB are free at {directory}, less than {settings.disk_free_bytes_min >> 20} MiB"
    return None


def broker_check(settings: Settings) -> ReadinessCheck:
    """Check the broker. It is reported but not needed: without it, tickets are accepted and wait."""
    queue = WakeQueue.open(settings)
    try:
        queue.check()
    except QueueUnavailable as error:
        return ReadinessCheck(f"{error}; accepted tickets wait until it is back", needed=False)
    finally:
        queue.close()
    return ReadinessCheck(None, needed=False)
