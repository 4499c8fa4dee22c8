"""Complete arguments from the store: numbers of tickets and images, names of users.

A shell waits while it completes, so the store gets little time to answer. Without an answer nothing is offered.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Sequence

from publisher.core.settings import Settings

_SECONDS = 1.5
_COUNT = 50

Offer = list[tuple[str, str]]


def tickets(incomplete: str) -> Offer:
    return _beginning(incomplete, "tickets")


def images(incomplete: str) -> Offer:
    return _beginning(incomplete, "images")


def users(incomplete: str) -> Offer:
    return [(name, "") for name, _ in _beginning(incomplete, "users")]


def _beginning(incomplete: str, kind: str) -> Offer:
    told: list[Sequence[tuple[str, str]]] = []

    def ask() -> None:
        # Whatever is wrong, a shell's completion is not the place to say so.
        with contextlib.suppress(Exception):
            told.append(_names(kind, incomplete))

    # Import it first, so that the time limit only covers the store's answer.
    importlib.import_module("publisher.store")
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return list(told[0]) if told else []


def _names(kind: str, beginning: str) -> Sequence[tuple[str, str]]:
    from publisher.store import Store

    settings = Settings.from_environment()
    if not settings.database_url and not (settings.data_dir / "publisher.db").exists():
        return []  # opening it would create an empty one
    store = Store.open(settings)
    try:
        return store.names(kind, beginning, _COUNT)
    finally:
        store.close()
