"""One-time keys for downloads of images.

A key lets its holder download an image once. No key is stored: it is computed from the image, the time when it became
ready, and a counter of used keys, which belongs to the image or to the ticket through which it is downloaded. Using a
key increments the counter. Older keys under that URI become invalid, and the next answer has a new one.
"""

from __future__ import annotations

from typing import Protocol

from publisher.core.image import Image
from publisher.core.ticket import Ticket

_PURPOSE = "download"


class Coder(Protocol):
    """The part of the vault that computes keys."""

    def mac(self, purpose: str, text: str) -> str: ...


def image_key(coder: Coder, image: Image) -> str:
    """Return the key for the download of an image under its own URI."""
    return _key(coder, "image", image.id, image.downloads, image)


def ticket_key(coder: Coder, ticket: Ticket, image: Image) -> str:
    """Return the key for the download of a ticket's image under the ticket's URI."""
    return _key(coder, "ticket", ticket.id, ticket.downloads, image)


def _key(coder: Coder, kind: str, id: int, used_up: int, image: Image) -> str:
    return coder.mac(_PURPOSE, f"{kind} {id} {image.id} {image.registered!r} {used_up}")
