"""Read a new password from a form that asks for it twice."""

from __future__ import annotations

from collections.abc import Mapping

from publisher.core.errors import InvalidRequest

MIN = 8
"""Minimum number of characters in a password that is chosen in the console."""
_MAX = 4096


def new_password(form: Mapping[str, str]) -> str:
    """Return the new password. Raises `InvalidRequest`."""
    password = form.get("password", "")
    if not password:
        raise InvalidRequest("must not be empty", field="password")
    if len(password) < MIN:
        raise InvalidRequest(f"has at least {MIN} characters", field="password")
    if len(password) > _MAX:
        raise InvalidRequest(f"has at most {_MAX} characters", field="password")
    if password != form.get("again"):
        raise InvalidRequest("is not the same both times", field="password")
    return password
