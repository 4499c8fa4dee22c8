"""The whole exception tree, and the rule that another user's object does not exist for a caller.

Only the type of an error decides what happens next: the intake maps it to an HTTP status, the runner to a retry or
to a failed ticket. The docstring of a class is its default message.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Reason(StrEnum):
    """Why a ticket failed or must be retried. For statistics and alerts; people read the message."""

    CREDENTIALS = "credentials"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    INTEGRITY = "integrity"
    """The cloud received something other than what was registered."""
    REFUSED = "refused"
    """The cloud refused for any other reason."""
    CONNECTION = "connection"
    """The connection failed, was lost, or moved no byte for too long."""
    UNAVAILABLE = "unavailable"
    """The cloud cannot serve the request at the moment: it answered with status 408, 429, or 500 and above."""
    NETWORK_POLICY = "network_policy"
    """The installation does not allow connections to that address."""
    IMAGE_FILE = "image_file"
    REQUEST = "request"
    """The request cannot be fulfilled."""
    DEADLINE = "deadline"
    CONFIGURATION = "configuration"
    WORKER_LOST = "worker_lost"
    INTERNAL = "internal"


class PublisherError(Exception):
    """Something went wrong in the publisher."""

    reason: Reason = Reason.INTERNAL

    def __init__(self, message: str | None = None, *, reason: Reason | None = None) -> None:
        """`reason` overrides the reason of the class."""
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        if reason is not None:
            self.reason = reason


# Errors in a caller's request ---------------------------------------------


class InvalidRequest(PublisherError):
    """The request is not valid."""

    reason = Reason.REQUEST

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        """`field` is the path of the invalid element ("credAccount.port"); the message then begins with it."""
        super().__init__(f"{field}: {message}" if field and message else message)
        self.field = field


class UnknownElement(InvalidRequest):
    """The request has an element that is unknown, and its caller wants none of these to be ignored."""


class BodyTooLarge(InvalidRequest):
    """The request body is too large."""


class PreflightFailed(InvalidRequest):
    """The cloud would refuse the publication."""


class ImageTooLarge(InvalidRequest):
    """The image is larger than this installation takes."""


class UnsupportedMediaType(PublisherError):
    """A request body must be application/xml, text/xml or application/json."""


class NotAcceptable(PublisherError):
    """Answers come as application/xml, text/xml or application/json only."""


class NotFound(PublisherError):
    """There is no such object."""


class NotAllowed(PublisherError):
    """The user lacks the entitlement for this."""


class NotAuthenticated(PublisherError):
    """A valid login is needed."""


class Conflict(PublisherError):
    """The object is in a state that does not allow this."""


class TooMany(PublisherError):
    """So many requests wait that no more are accepted for now."""

    retry_after_seconds = 30

    def __init__(self, message: str | None = None, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds


class NotChecked(PublisherError):
    """Nothing could be checked for now."""

    retry_after_seconds = 30


# Errors from a cloud ---------------------------------------------


class CloudError(PublisherError):
    """The cloud could not do what was asked."""

    reason = Reason.REFUSED


class PermanentCloudError(CloudError):
    """The cloud refused, and will refuse again: credentials, permissions, quota, checksum."""


class NetworkRefused(PermanentCloudError):
    """This installation does not allow connections to that address."""

    reason = Reason.NETWORK_POLICY


class TransientCloudError(CloudError):
    """The cloud did not answer, or asked to come back later."""

    reason = Reason.UNAVAILABLE

    def __init__(
        self, message: str | None = None, *, retry_after_seconds: float | None = None, reason: Reason | None = None
    ) -> None:
        """`retry_after_seconds` is the delay that the cloud asked for, if it did."""
        super().__init__(message, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class ImageFileError(PublisherError):
    """The generated image's file is missing, or is no longer what was registered."""

    reason = Reason.IMAGE_FILE


# Reasons for a worker to stop ---------------------------------------------


class Stopped(PublisherError):
    """The work on this ticket must stop now."""


class Cancelled(Stopped):
    """The ticket is being cancelled."""


class LeaseLost(Stopped):
    """Another worker has taken the ticket over; nothing may be written any more."""

    reason = Reason.WORKER_LOST


class DeadlinePassed(Stopped):
    """The time that the ticket had to be published in is over."""

    reason = Reason.DEADLINE


class ShuttingDown(Stopped):
    """This worker is shutting down and hands the ticket back."""


# The installation ---------------------------------------------


class ConfigurationError(PublisherError):
    """The installation is not set up correctly."""

    reason = Reason.CONFIGURATION


class QueueUnavailable(PublisherError):
    """The message broker cannot be reached."""


# Ids, URIs and owners of objects ---------------------------------------------

# URIs are relative to the API's base path and have no leading slash, as in documents. The modules of the objects have a
# function for each kind.


def own(found: T | None, owner: str | None, **attributes: int) -> T | None:
    """Return the object that was found if it belongs to this owner and has these attributes; otherwise None.

    If `owner` is None, it may belong to anyone. Another user's object is treated like a missing one, so that nobody
    can probe for ids.
    """
    if found is None or owner not in (None, getattr(found, "owner", None)):
        return None
    return found if all(getattr(found, name) == value for name, value in attributes.items()) else None


def require_own(found: T | None, missing: str, owner: str | None, **attributes: int) -> T:
    """Return the object that was found, as `own` does. Raises `NotFound` with the message `missing`."""
    mine = own(found, owner, **attributes)
    if mine is None:
        raise NotFound(missing)
    return mine
