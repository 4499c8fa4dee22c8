"""The administrator that `publisher up` makes where there is no user yet, and where it writes down the password."""

from __future__ import annotations

from publisher.core.settings import Settings

LOGIN = "root"
PASSWORD_FILE = "root.password"  # noqa: S105  # a file's name


def forget_password(settings: Settings, login: str) -> None:
    """Whoever has another password now: what the first start wrote down is not true any more of that user."""
    if login == LOGIN:
        (settings.data_dir / PASSWORD_FILE).unlink(missing_ok=True)
