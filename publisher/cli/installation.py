"""The installation that a command works on: its settings, and its store, opened and of the right version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from publisher.core.errors import PublisherError
from publisher.core.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.exc import SQLAlchemyError

    from publisher.core.store import Store


class StoreUnavailable(PublisherError):
    """The database cannot be reached."""


@contextmanager
def open_store(settings: Settings, *, check: bool = True) -> Iterator[Store]:
    """The store, closed again at the end of the block; `check` refuses tables of another version.

    Raises `ConfigurationError`, or `StoreUnavailable` for whatever the database cannot do, inside the block too.
    """
    # Imported here, as in the commands: `publisher --help` need not wait for it.
    from sqlalchemy.exc import SQLAlchemyError

    from publisher.core.store import Store

    try:
        store = Store.open(settings)
        try:
            if check:
                store.check_schema()
            yield store
        finally:
            store.close()
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database cannot be used: {_reason(error)}; check PUBLISHER_DATABASE_URL") from None


def _reason(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement that SQLAlchemy adds."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
