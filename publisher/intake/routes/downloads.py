"""Downloads of images: with a login, or without one by a one-time key; whole, or a range of bytes."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from publisher.core.errors import NotFound, own
from publisher.core.ticket import image_of
from publisher.intake.download_keys import image_key, is_key, ticket_key
from publisher.web import auth
from publisher.web.file_response import bad_key, send_image
from publisher.web.request import Id, services, signed_in

router = APIRouter()

_APPLIANCE = "/users/{uid}/appliances/{aid}"
_IMAGE_FILE = _APPLIANCE + "/images/{itid}/downloads"
_TICKET_FILE = _APPLIANCE + "/pimages/{pitid}/downloads"


@router.get(_IMAGE_FILE)
def image_file(request: Request, uid: str, aid: Id, itid: Id) -> Response:
    return _image_file(request, uid, aid, itid, None)


@router.get(_IMAGE_FILE + "/{file_name}")
def named_image_file(request: Request, uid: str, aid: Id, itid: Id, file_name: str) -> Response:
    return _image_file(request, uid, aid, itid, file_name)


@router.get(_TICKET_FILE)
def published_image_file(request: Request, uid: str, aid: Id, pitid: Id) -> Response:
    made = services(request)
    key = _key_alone(request, "downloadId", "id")
    owner = uid if key is not None else auth.owner(made.store, signed_in(request), uid)
    ticket = own(made.store.tickets.get(pitid), owner, appliance_id=aid)
    image = image_of(ticket, made.store.images.get(ticket.image_id)) if ticket else None
    if key is not None:
        # Who has no key is told nothing, not even what there is.
        if not (ticket and image and image.ready and is_key(key, ticket_key(made.sealer, ticket, image))):
            raise bad_key()
    elif not ticket:
        raise NotFound(f"appliance {aid} of {owner} has no published image {pitid}")
    if not image:
        raise NotFound(f"the image of published image {pitid} was deleted")
    return send_image(request, made, image, None if key is None else partial(made.store.tickets.use_key, ticket))


def _image_file(request: Request, uid: str, aid: int, itid: int, file_name: str | None) -> Response:
    made = services(request)
    key = _key_alone(request, "downloadId")
    if key is None:
        image = made.store.images.find(auth.owner(made.store, signed_in(request), uid), aid, itid)
    else:
        found = own(made.store.images.get(itid), uid, appliance_id=aid)
        if not found or not found.ready or not is_key(key, image_key(made.sealer, found)):
            raise bad_key()
        image = found
    if file_name not in (None, image.file_name):
        raise NotFound(f"image {itid} has no file '{file_name}'")
    return send_image(request, made, image, None if key is None else partial(made.store.images.use_key, image))


def _key_alone(request: Request, *names: str) -> str | None:
    """The one-time key of a request that has no login; one that has stands by that, and uses no key up."""
    if "authorization" in request.headers or "apiKey" in request.query_params:
        return None
    return next((request.query_params[name] for name in names if name in request.query_params), None)
