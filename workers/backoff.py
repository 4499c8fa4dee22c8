"""How long until what went wrong for now is tried again."""

from __future__ import annotations

import random

from publisher.core.settings import Settings

_DOUBLINGS_MAX = 60
"""More than make a difference, and fewer than a float can hold."""
_ASKED_MAX_SECONDS = 86400.0


def retry_delay(settings: Settings, attempt: int, retry_after_seconds: float | None = None) -> float:
    """Seconds before the next attempt: doubling, spread by a quarter so that many tickets do not return at once, and
    never less than the cloud asked for, within a day."""
    doubled = settings.retry_first_seconds * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX)
    delay = min(doubled, settings.retry_longest_seconds) * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
    return max(delay, min(retry_after_seconds or 0.0, _ASKED_MAX_SECONDS))
