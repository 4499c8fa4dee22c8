"""Generated images: get, list, how they stand; delete."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter, Response

from publisher.core.image import Image
from publisher.core.uris import parse_id, parse_image_uri
from publisher.intake.caller import Caller, Calling, Listed
from publisher.intake.documents import image_document, image_status_document
from publisher.intake.download_keys import image_key
from publisher.intake.routes.pimages import list_tickets
from publisher.services import image_files
from publisher.web.request import Id
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)

_USER = "/users/{uid}"
_IMAGES = _USER + "/appliances/{aid}/images"

# A list from which an image was deleted is no older than before, and one that is being registered moves on all the
# time: the date of these answers is that of asking, and their ETag tells more.


@router.get(_IMAGES)
def images(caller: Calling, uid: str, aid: Id, listing: Listed) -> Response:
    owner = caller.owner_of_appliance(uid, aid)
    found = caller.store.images.page(owner, aid, listing)
    return _list(caller, found.items, found.total)


@router.get(_IMAGES + "/statuses")
def image_statuses(caller: Calling, uid: str, aid: Id) -> Response:
    owner = caller.owner_of_appliance(uid, aid)
    found = caller.store.images.list(owner=owner, appliance_id=aid)
    documents = [image_status_document(image) for image in found]
    return caller.answer("statuses", {"total": len(documents), "statuses": documents}, time.time())


@router.get(_USER + "/images")
def images_of_user(caller: Calling, uid: str, img: str | None = None) -> Response:
    """`img` is an image's URI or its number. Raises `InvalidRequest` where it is neither."""
    owner = caller.owner(uid, "image_generate")
    store = caller.store.images
    if img is None:
        return _list(caller, store.list(owner=owner))
    if (id := parse_id(img)) is not None:
        return _list(caller, store.list(owner=owner, id=id))
    login, appliance_id, image_id = parse_image_uri(img, "img")
    return _list(caller, store.list(owner=owner, appliance_id=appliance_id, id=image_id) if login == owner else [])


@router.get(_IMAGES + "/{itid:id}")
def image(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    found = _image(caller, uid, aid, itid)
    appliance = caller.store.appliances.find(found.owner, aid)
    document = image_document(
        found,
        distribution=appliance.distribution if appliance else None,
        key=image_key(caller.services.sealer, found),
    )
    return caller.answer("image", document, _modified(found))


@router.get(_IMAGES + "/{itid}/status")
def image_status(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    found = _image(caller, uid, aid, itid)
    return caller.answer("status", image_status_document(found), _modified(found))


@router.get(_IMAGES + "/{itid}/pimages")
def published_images_of_image(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    """An extension of ours: where an image's `basePublishImagesUri` leads."""
    found = _image(caller, uid, aid, itid)
    tickets = caller.store.tickets.list(owner=found.owner, appliance_id=aid, image_id=itid)
    return list_tickets(caller, tickets)


@router.delete(_IMAGES + "/{itid:id}")
def delete_image(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    owner = caller.owner(uid, "appliance_create")
    image_files.delete(caller.store, caller.services.settings.images, owner, aid, itid)
    return Response(status_code=204)


@router.delete(_IMAGES)
def delete_images(caller: Calling, uid: str, aid: Id) -> Response:
    owner = caller.owner_of_appliance(uid, aid)
    image_files.delete(caller.store, caller.services.settings.images, owner, aid)
    return Response(status_code=204)


def _image(caller: Caller, uid: str, aid: int, itid: int) -> Image:
    return caller.store.images.find(caller.owner(uid, "appliance_create"), aid, itid)


def _list(caller: Caller, found: Sequence[Image], total: int | None = None) -> Response:
    # With their keys: existing clients download an image from the `downloadUri` that they find in a list.
    owned = caller.store.appliances.list(found[0].owner) if found else []
    distributions = {each.id: each.distribution for each in owned}
    documents = [
        image_document(
            each,
            distribution=distributions.get(each.appliance_id),
            key=image_key(caller.services.sealer, each),
        )
        for each in found
    ]
    listed = {"total": len(documents) if total is None else total, "images": documents}
    return caller.answer("images", listed, time.time())


def _modified(image: Image) -> float:
    """One that is being registered changes all the time: its progress is written without touching `modified`."""
    return image.modified if image.final else time.time()
