"""Compute how long to wait before the next attempt."""

from __future__ import annotations

import random

from publisher.core.settings import Settings

_DOUBLINGS_MAX = 60
"""A limit high enough to make no difference, and low enough that a float can hold the result."""
_ASKED_MAX_SECONDS = 86400.0


def retry_delay(settings: Settings, attempt: int, retry_after_seconds: float | None = None) -> float:
    """Return the seconds before the next attempt.

    The delay doubles with each attempt, spread by a quarter so that many tickets do not return at the same moment. It
    is never shorter than the cloud asked for, up to a day.
    """
    doubled = settings.retry_first_seconds * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX)
    delay = min(doubled, settings.retry_longest_seconds) * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
    return max(delay, min(retry_after_seconds or 0.0, _ASKED_MAX_SECONDS))


def duration_words(seconds: float) -> str:
    """Return a time that somebody has set, for people to read: `24 h` or `90 s`."""
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"
