"""Downloads of images: with a login, or without one by a one-time key.

A key lets its holder download an image once. No key is stored: it is computed from the image, the time when it became
ready, and a counter of used keys, which belongs to the image or to the ticket through which it is downloaded. Using a
key increments the counter. Older keys under that URI become invalid, and the next answer has a new one.
"""

from __future__ import annotations

import hmac
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from publisher.core.errors import NotFound, own
from publisher.core.image import Image
from publisher.core.ticket import Ticket, image_of
from publisher.intake.caller import Parameter
from publisher.web import SecretKeeper, bad_key, send_image, services, signed_in

DOWNLOAD_KEY = Parameter("downloadId", "A download key. It works once.", {"type": "string"})
_PURPOSE = "download"


def image_key(keeper: SecretKeeper, image: Image) -> str:
    """Return the key for the download of an image under its own URI."""
    return _key(keeper, "image", image.id, image.downloads, image)


def ticket_key(keeper: SecretKeeper, ticket: Ticket, image: Image) -> str:
    """Return the key for the download of a ticket's image under the ticket's URI."""
    return _key(keeper, "ticket", ticket.id, ticket.downloads, image)


def send_image_file(request: Request, uid: str, aid: int, itid: int, file_name: str | None = None) -> Response:
    """Answer with an image's file, which must have that name if one is given.

    Raises `NotAuthenticated`, `NotFound`, and what `send_image` raises.
    """
    made = services(request)
    key = _key_alone(request, DOWNLOAD_KEY.name)
    if key is None:
        image = made.store.images.find(made.store.users.owner(signed_in(request), uid), aid, itid)
    else:
        found = own(made.store.images.get(itid), uid, appliance_id=aid)
        if not found or not found.ready or not _is_key(key, image_key(made.sealer, found)):
            raise bad_key()
        image = found
    if file_name not in (None, image.file_name):
        raise NotFound(f"image {itid} has no file '{file_name}'")
    return send_image(request, made, image, None if key is None else partial(made.store.images.use_key, image))


def send_ticket_file(request: Request, uid: str, aid: int, pitid: int) -> Response:
    """Answer with the file of a ticket's image.

    Raises `NotAuthenticated`, `NotFound`, and what `send_image` raises.
    """
    made = services(request)
    key = _key_alone(request, DOWNLOAD_KEY.name, "id")
    owner = uid if key is not None else made.store.users.owner(signed_in(request), uid)
    ticket = own(made.store.tickets.get(pitid), owner, appliance_id=aid)
    image = image_of(ticket, made.store.images.get(ticket.image_id)) if ticket else None
    if key is not None:
        # Without a right key the answer must not reveal what exists.
        if not (ticket and image and image.ready and _is_key(key, ticket_key(made.sealer, ticket, image))):
            raise bad_key()
    elif not ticket:
        raise NotFound(f"appliance {aid} of {owner} has no published image {pitid}")
    if not image:
        raise NotFound(f"the image of published image {pitid} was deleted")
    return send_image(request, made, image, None if key is None else partial(made.store.tickets.use_key, ticket))


def _is_key(given: str, key: str) -> bool:
    """Compare in constant time, so that the duration reveals nothing about the key."""
    return hmac.compare_digest(given.encode(), key.encode())


def _key_alone(request: Request, *names: str) -> str | None:
    """Return the key that the query has under one of these names, if the request has no login.

    A request with a login is judged by its login and uses up no key.
    """
    if "authorization" in request.headers or "apiKey" in request.query_params:
        return None
    return next((request.query_params[name] for name in names if name in request.query_params), None)


def _key(keeper: SecretKeeper, kind: str, id: int, used_up: int, image: Image) -> str:
    return keeper.mac(_PURPOSE, f"{kind} {id} {image.id} {image.registered!r} {used_up}")
