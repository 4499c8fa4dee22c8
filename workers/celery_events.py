"""Report to Celery's monitors, such as Flower, how a message ended, as the ticket store has it.

Celery knows only success and failure of a task, and here a failed ticket is no failure of the task's code. So this
module sends the event itself whenever a ticket was not published: a task that has `failed` is a ticket that has failed,
with the ticket's error.
"""

from __future__ import annotations

import logging
import time
from typing import Any, ClassVar

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore
from celery.worker.request import Request

from publisher.core.cloud_check import CheckResult
from publisher.core.image import Image, ImageState
from publisher.core.ticket import State, Ticket

logger = logging.getLogger(__name__)

_WORDS_MAX = 500


class Ended(Ignore):  # type: ignore[misc]  # Celery has no types
    """The work ended without success, and all of it is recorded: Celery has nothing to do about it.

    `state` is what a monitor shows, in lower case: `failed` or `retried`, which Celery knows, `cancelled`, or `ignored`
    if there was nothing to do.
    """

    def __init__(self, state: str, words: str) -> None:
        super().__init__(state, words)
        self.state = state
        self.words = " ".join(words.split())[:_WORDS_MAX]


class Message(Request):  # type: ignore[misc]
    """A message in progress, whose outcome is reported as the ticket store has it."""

    _unheard: ClassVar[bool] = False
    """Whether the last event could not be sent: only the first failure is logged."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        done = super().on_failure(exc_info, send_failed_event, return_ok)  # it acknowledges the message
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Ended):
            self._report(error)
        return done

    def _report(self, ended: Ended) -> None:
        """Send the event of how the message ended. A failure only costs the monitors this event."""
        field = "exception" if ended.state in ("failed", "retried") else "result"
        # The clock may have been set back in the meantime.
        runtime = max(0.0, time.time() - self.time_start) if self.time_start else None
        try:
            self.send_event(f"task-{ended.state}", runtime=runtime, **{field: ended.words})
        except Exception as error:
            if not Message._unheard:
                logger.warning("cannot report to monitors how messages end: %s", type(error).__name__)
            Message._unheard = True
        else:
            Message._unheard = False


def ticket_result(state: State | None, ticket: Ticket | None) -> str:
    """Return the result of a task from how the worker left its ticket (`Runner.run`) and the ticket as it is now.

    Raises `Ended` unless the ticket was published or withdrawn.
    """
    match state:
        case State.PUBLISHED:
            return "published"
        case State.WITHDRAWN:
            return "withdrawn"
        case State.FAILED:
            raise Ended("failed", (ticket and ticket.error) or "the ticket failed")
        case State.CANCELLED:
            raise Ended("cancelled", "cancelled; nothing is left in the cloud")
        case State.QUEUED | State.PUBLISHING | State.CANCELLING | State.WITHDRAWING:
            raise Ended("retried", ticket.message if ticket else "will be retried")
    if ticket and ticket.state is State.CANCELLED and ticket.started is None:
        raise Ended("cancelled", "cancelled before a worker claimed it")
    raise Ended("ignored", f"nothing to do: the ticket is {ticket.state if ticket else 'gone'}")


def image_result(state: ImageState | None, image: Image | None) -> str:
    """Return the result of a task from how the worker left its image (`Registrar.run`).

    Raises `Ended` unless it is ready.
    """
    match state:
        case ImageState.READY:
            return "registered"
        case ImageState.FAILED:
            raise Ended("failed", (image and image.error) or "the registration failed")
        case ImageState.QUEUED | ImageState.FETCHING:
            raise Ended("retried", (image and image.error) or "will be retried")
    if image and image.state is ImageState.CANCELLED:
        raise Ended("cancelled", "cancelled")
    raise Ended("ignored", f"nothing to do: the image is {image.state if image else 'gone'}")


def check_result(result: CheckResult | None) -> str:
    """Return the result of a task from what a check found (`Checker.run`). Raises `Ended` unless all is well."""
    if result is None:
        raise Ended("ignored", "nothing to do: nobody waits for the check")
    if not result.ok:
        raise Ended("failed", result.words)
    return "works"
