"""Ask the Celery workers whether they run, over the broker and without Celery."""

from __future__ import annotations

from publisher.core.errors import QueueUnavailable
from publisher.core.settings import Settings

_CONTROL = "celery"
"""Celery's name for the exchange of its remote control (setting `control_exchange`)."""


def ping_workers(settings: Settings, *, timeout_seconds: float, only: str | None = None) -> list[str]:
    """Return the names of the workers that answer in time.

    With `only`, asks a single worker and returns as soon as it answers. Raises `QueueUnavailable`.
    """
    from kombu.exceptions import KombuError
    from kombu.pidbox import Mailbox
    from redis.exceptions import RedisError

    from publisher.core.broker import Broker

    try:
        with Broker.of(settings).connection(max(2.0, 2 * timeout_seconds), connect_seconds=2) as connection:
            mailbox = Mailbox(_CONTROL, type="fanout", accept=["json"])(connection)
            if only is None:
                answers = mailbox.multi_call("ping", timeout=timeout_seconds)
            else:
                answers = mailbox.call([only], "ping", timeout=timeout_seconds)
    except (OSError, KombuError, RedisError) as error:
        raise QueueUnavailable(f"the message broker cannot be reached: {type(error).__name__}") from None
    return sorted(name for answer in answers or [] for name in answer)
