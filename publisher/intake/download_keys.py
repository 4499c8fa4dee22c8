"""One-time keys. Each lets its holder download an image once, without a login.

No key is stored. A key is computed from the image, the time when it became ready, and a counter of used keys, which
belongs to the image or to the ticket through which it is downloaded. Using a key increments the counter: older keys
under that URI become invalid, and the next answer has a new one.
"""

from __future__ import annotations

import hmac

from fastapi import Request

from publisher.core.image import Image
from publisher.core.ticket import Ticket
from publisher.intake.caller import Parameter
from publisher.web.request import SecretKeeper

DOWNLOAD_KEY = Parameter("downloadId", "A download key, which works once.", {"type": "string"})
_PURPOSE = "download"


def image_key(keeper: SecretKeeper, image: Image) -> str:
    """Return the key for the download of an image under its own URI."""
    return _key(keeper, "image", image.id, image.downloads, image)


def ticket_key(keeper: SecretKeeper, ticket: Ticket, image: Image) -> str:
    """Return the key for the download of a ticket's image under the ticket's URI."""
    return _key(keeper, "ticket", ticket.id, ticket.downloads, image)


def is_key(given: str, key: str) -> bool:
    """Compare in constant time, so that the duration reveals nothing about the key."""
    return hmac.compare_digest(given.encode(), key.encode())


def key_alone(request: Request, *names: str) -> str | None:
    """Return the key that the query has under one of these names, if the request has no login.

    A request with a login is judged by its login and uses up no key.
    """
    if "authorization" in request.headers or "apiKey" in request.query_params:
        return None
    return next((request.query_params[name] for name in names if name in request.query_params), None)


def _key(keeper: SecretKeeper, kind: str, id: int, used_up: int, image: Image) -> str:
    return keeper.mac(_PURPOSE, f"{kind} {id} {image.id} {image.registered!r} {used_up}")
