"""Downloads of images: with a login, or without one by a one-time key (`publisher.core.download_keys`)."""

from __future__ import annotations

import hmac
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from publisher.core.download_keys import image_key, ticket_key
from publisher.core.errors import NotFound, own
from publisher.core.ticket import image_of
from publisher.intake.caller import Parameter
from publisher.web import bad_key, send_image, services, signed_in

DOWNLOAD_KEY = Parameter("downloadId", "A download key. It works once.", {"type": "string"})


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
