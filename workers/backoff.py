"""How long until what went wrong for now is tried again."""

from __future__ import annotations

import random

from publisher.core.settings import Settings


def retry_delay(settings: Settings, attempt: int, retry_after_seconds: float | None = None) -> float:
    """Seconds before the next attempt: doubling, spread by a quarter so that many tickets do not return at once, and
    never less than the cloud asked for."""
    doubled = settings.retry_first_seconds * 2.0 ** (attempt - 1)
    delay = min(doubled, settings.retry_longest_seconds) * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
    return max(delay, retry_after_seconds or 0.0)
