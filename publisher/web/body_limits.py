"""Limits on the size and structure of a request body."""

from __future__ import annotations

from publisher.core.errors import InvalidRequest

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ELEMENTS = 10_000


class BodyTooLarge(InvalidRequest):
    """The request body is too large."""


def check_size(body: bytes, limit: int) -> None:
    """Check the size of a body. Raises `BodyTooLarge` if it has more than `limit` bytes."""
    if len(body) > limit:
        raise BodyTooLarge(f"the request body has {len(body)} bytes; at most {limit} are accepted")


def too_deep() -> InvalidRequest:
    """Return the error for a body that is nested too deeply."""
    return InvalidRequest(f"the request body is nested deeper than {MAX_DEPTH} levels")


def too_many() -> InvalidRequest:
    """Return the error for a body with too many elements."""
    return InvalidRequest(f"the request body has more than {MAX_ELEMENTS} elements")
