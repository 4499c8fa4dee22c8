"""One-time keys: each lets who has it download an image once, without a login.

No key is stored. One is made of the image, of when it became ready, and of how many keys of it, or of the ticket by way
of which it is downloaded, were used up: to use it is to count that number up. What was given out under that URI is then
of no use, and the next answer has another.
"""

from __future__ import annotations

import hmac

from publisher.core.image import Image
from publisher.core.ticket import Ticket
from publisher.web.request import SecretKeeper

_PURPOSE = "download"


def image_key(keeper: SecretKeeper, image: Image) -> str:
    return _key(keeper, "image", image.id, image.downloads, image)


def ticket_key(keeper: SecretKeeper, ticket: Ticket, image: Image) -> str:
    """The key for the download of a ticket's image under the ticket's own URI."""
    return _key(keeper, "ticket", ticket.id, ticket.downloads, image)


def is_key(given: str, key: str) -> bool:
    """In a time that tells nothing."""
    return hmac.compare_digest(given.encode(), key.encode())


def _key(keeper: SecretKeeper, kind: str, id: int, used_up: int, image: Image) -> str:
    return keeper.mac(_PURPOSE, f"{kind} {id} {image.id} {image.registered!r} {used_up}")
