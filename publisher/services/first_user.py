"""The administrator that `publisher up` creates if there is no user yet, and the file with its first password."""

from __future__ import annotations

from publisher.core.settings import Settings

LOGIN = "root"
PASSWORD_FILE = "root.password"  # noqa: S105  # a file's name


def forget_password(settings: Settings, login: str) -> None:
    """Delete the file with the first administrator's password, if that user's password has changed."""
    if login == LOGIN:
        (settings.data_dir / PASSWORD_FILE).unlink(missing_ok=True)
