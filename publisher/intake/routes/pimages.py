"""Published images: publish, get, list, and how they stand."""

from __future__ import annotations

import time

from fastapi import APIRouter, BackgroundTasks, Response

from publisher.core.errors import NotFound
from publisher.core.publishing import accept, wake
from publisher.core.store import Store
from publisher.core.ticket import Ticket
from publisher.core.uris import ticket_uri
from publisher.intake.answers import status_document, ticket_document
from publisher.intake.exchange import Body, Caller, Calling, Id, last_modified
from publisher.intake.requests import publish_request

router = APIRouter()

_APPLIANCE = "/users/{uid}/appliances/{aid}"
_IMAGE = _APPLIANCE + "/images/{itid}"


@router.post(_APPLIANCE + "/pimages")
def publish(caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id) -> Response:
    return _publish(caller, body, after, uid, aid, None)


@router.post(_IMAGE + "/pimages")
def publish_image(caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id, itid: Id) -> Response:
    return _publish(caller, body, after, uid, aid, itid)


@router.get(_APPLIANCE + "/pimages")
def published_images(caller: Calling, uid: str, aid: Id) -> Response:
    store = caller.services.store
    tickets = store.tickets.list(owner=caller.owner(uid, "appliance_create"), appliance_id=aid)
    images = {image.id: image for image in store.images.list(owner=uid, appliance_id=aid)}
    now = time.time()
    documents = [ticket_document(ticket, images.get(ticket.image_id), now) for ticket in tickets]
    listed = {"total": len(documents), "publishImages": documents}
    return caller.answer("publishImages", listed, last_modified(*tickets))


@router.get(_APPLIANCE + "/pimages/statuses")
def statuses(caller: Calling, uid: str, aid: Id) -> Response:
    tickets = caller.services.store.tickets.list(owner=caller.owner(uid, "appliance_create"), appliance_id=aid)
    now = time.time()
    listed = {"total": len(tickets), "statuses": [status_document(ticket, now) for ticket in tickets]}
    return caller.answer("statuses", listed, last_modified(*tickets))


@router.get(_IMAGE + "/pimages/{pitid}")
def published_image(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, None), aid, itid, pitid)
    image = caller.services.store.images.get(ticket.image_id)
    return caller.answer("publishImage", ticket_document(ticket, image, time.time()), last_modified(ticket))


@router.get(_IMAGE + "/pimages/{pitid}/status")
def published_image_status(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, "image_publish"), aid, itid, pitid)
    return caller.answer("status", status_document(ticket, time.time()), last_modified(ticket))


def _publish(caller: Caller, body: bytes, after: BackgroundTasks, uid: str, aid: int, itid: int | None) -> Response:
    owner = caller.owner(uid, "image_publish")
    store = caller.services.store
    if itid is not None and not _has_image(store, owner, aid, itid):
        raise NotFound(f"appliance {aid} of {owner} has no image {itid}")
    document = caller.read(body, "publishImage")
    request = publish_request(document, owner=owner, appliance_id=aid, image_id=itid)
    ticket = accept(store, caller.services.sealer, request)
    # The ticket is safe. Waking a worker must not keep the caller waiting, whatever the broker does.
    after.add_task(wake, store, caller.services.waker, ticket.id)
    answer = ticket_document(ticket, store.images.get(ticket.image_id), time.time())
    created = caller.created("publishImage", answer, ticket_uri(owner, aid, ticket.image_id, ticket.id))
    created.background = after
    return created


def _has_image(store: Store, owner: str, aid: int, itid: int) -> bool:
    image = store.images.get(itid)
    return image is not None and (image.owner, image.appliance_id) == (owner, aid)


def _ticket(caller: Caller, owner: str, aid: int, itid: int, pitid: int) -> Ticket:
    ticket = caller.services.store.tickets.get(pitid)
    if ticket is None or (ticket.owner, ticket.appliance_id, ticket.image_id) != (owner, aid, itid):
        raise NotFound(f"image {itid} has no published image {pitid}")
    return ticket
