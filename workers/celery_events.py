"""What Celery's monitors, such as Flower, are told of how a message ended: the same as the ticket store says.

Celery knows success and failure of a task, and a task here fails for no reason of its own. So its event is sent by us
wherever a ticket was not published: a task that has `failed` is a ticket that has failed, with its error.
"""

from __future__ import annotations

import logging
import time
from typing import Any, ClassVar

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore
from celery.worker.request import Request

from publisher.core.image import Image, ImageState
from publisher.core.ticket import State, Ticket

logger = logging.getLogger(__name__)

_WORDS_MAX = 500


class Ended(Ignore):  # type: ignore[misc]  # Celery has no types
    """The work has ended in another way than well, and all of it is written down: Celery has nothing to do about it.

    `state` is what a monitor shows, in lower case: `failed` or `retried`, which Celery knows, `cancelled`, or `ignored`
    where there was nothing to do.
    """

    def __init__(self, state: str, words: str) -> None:
        super().__init__(state, words)
        self.state = state
        self.words = " ".join(words.split())[:_WORDS_MAX]


class Message(Request):  # type: ignore[misc]
    """A message in a worker's hands, whose end is told as it is."""

    _unheard: ClassVar[bool] = False
    """The last time, telling failed: that is logged once."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        done = super().on_failure(exc_info, send_failed_event, return_ok)  # it acknowledges the message
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Ended):
            self._tell(error)
        return done

    def _tell(self, ended: Ended) -> None:
        """Monitors only look on: what they cannot be told keeps nothing from going on."""
        field = "exception" if ended.state in ("failed", "retried") else "result"
        # The clock may have been set back meanwhile.
        runtime = max(0.0, time.time() - self.time_start) if self.time_start else None
        try:
            self.send_event(f"task-{ended.state}", runtime=runtime, **{field: ended.words})
        except Exception as error:
            if not Message._unheard:
                logger.warning("monitors are not told how messages end: %s", type(error).__name__)
            Message._unheard = True
        else:
            Message._unheard = False


def tell_ticket(state: State | None, ticket: Ticket | None) -> str:
    """How a worker left a ticket (`Runner.run`), and how that stands by now: the result of the task.

    Raises `Ended` unless it was published.
    """
    match state:
        case State.PUBLISHED:
            return "published"
        case State.FAILED:
            raise Ended("failed", (ticket and ticket.error) or "the ticket failed")
        case State.CANCELLED:
            raise Ended("cancelled", "cancelled, and nothing is left in the cloud")
        case State.QUEUED | State.PUBLISHING | State.CANCELLING:
            raise Ended("retried", ticket.message if ticket else "to be tried again")
    if ticket and ticket.state is State.CANCELLED and ticket.started is None:
        raise Ended("cancelled", "cancelled before a worker took it up")
    raise Ended("ignored", f"nothing to do: the ticket is {ticket.state if ticket else 'gone'}")


def tell_image(state: ImageState | None, image: Image | None) -> str:
    """The same for the registration of an image (`Registrar.run`). Raises `Ended` unless it is ready."""
    match state:
        case ImageState.READY:
            return "registered"
        case ImageState.FAILED:
            raise Ended("failed", (image and image.error) or "the registration failed")
        case ImageState.QUEUED | ImageState.FETCHING:
            raise Ended("retried", (image and image.error) or "to be tried again")
    if image and image.state is ImageState.CANCELLED:
        raise Ended("cancelled", "cancelled")
    raise Ended("ignored", f"nothing to do: the image is {image.state if image else 'gone'}")
