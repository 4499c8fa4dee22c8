"""Open the installation that a command works on: its settings, and its store with the current tables."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from publisher.cli.output import say_warning
from publisher.core.errors import ConfigurationError, PublisherError
from publisher.core.settings import Settings
from publisher.core.settings_report import only_for_a_trial, unknown

if TYPE_CHECKING:
    from sqlalchemy.exc import SQLAlchemyError

    from publisher.store import Store


class StoreUnavailable(PublisherError):
    """The database cannot be reached."""


def read_settings(*, serving: bool = False) -> Settings:
    """Return the settings of the environment, and warn of variables that look like settings and are none.

    With `serving`, also warn of settings that are unfit for production in production mode. Raises `ConfigurationError`.
    """
    settings = Settings.from_environment()
    for each in unknown():
        say_warning(each.message)
    if serving and settings.production:
        for found in only_for_a_trial(settings):
            say_warning(found.message)
    return settings


@contextmanager
def open_store(settings: Settings, *, check: bool = True) -> Iterator[Store]:
    """Open the store, and close it at the end of the block. `check` refuses tables of another version.

    The audit log attributes each change to the user of the operating system, at a terminal.

    Raises `ConfigurationError`, or `StoreUnavailable` for any database error, including one inside the block.
    """
    # Imported here, as in the commands, so that `publisher --help` need not wait for it.
    from publisher.store import Store
    from publisher.store.audit import Actor

    if check and not settings.database_url and not (settings.data_dir / "publisher.db").exists():
        raise ConfigurationError(
            f"there is no installation in {settings.data_dir}; start one with `publisher up`, or name the directory of"
            " another with PUBLISHER_DATA_DIR"
        )
    with database_errors():
        store = Store.open(settings)
        try:
            if check:
                store.check_schema()
            yield store.acting(Actor(_system_user(), "terminal"))
        finally:
            store.close()


@contextmanager
def database_errors() -> Iterator[None]:
    """Translate database errors in the block to `StoreUnavailable`."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database cannot be used: {_reason(error)}; check PUBLISHER_DATABASE_URL") from None


def make_private(directory: Path, *, follow_links: bool = True) -> None:
    """Make a directory for its owner alone. Raises `ConfigurationError` if it exists and others may write to it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = directory.stat(follow_symlinks=follow_links)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{directory} is not a directory that only you can write to; run: chmod go-w {directory}, or choose"
            " another with PUBLISHER_DATA_DIR"
        )


def _system_user() -> str:
    """Return the name of the user who runs this, or the number if there is no name.

    Anybody may set variables like USER.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _reason(error: SQLAlchemyError) -> str:
    """Return the driver's own words, without the statement that SQLAlchemy adds."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
