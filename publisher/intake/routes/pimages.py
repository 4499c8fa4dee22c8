"""Published images: publish, get, list, how they stand; cancel, try again, delete."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, BackgroundTasks, Request, Response
from fastapi.concurrency import run_in_threadpool

from publisher.core.errors import NotFound, require_own
from publisher.core.image import Image
from publisher.core.ticket import Ticket, image_of
from publisher.core.uris import parse_id, parse_image_uri, ticket_uri
from publisher.intake.caller import Caller, Calling
from publisher.intake.documents import status_document, ticket_account_document, ticket_document
from publisher.intake.download_keys import ticket_key
from publisher.intake.idempotency_header import idempotency_key
from publisher.intake.long_poll import Watcher, wait_seconds
from publisher.intake.publish_request import publish_request, referred_account
from publisher.platforms.fields import TYPE_KEY, Document
from publisher.services import publishing
from publisher.services.publishing import PublishRequest
from publisher.web.conditional import last_modified, respond
from publisher.web.request import Body, Id, wake_later
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)

_USER = "/users/{uid}"
_APPLIANCE = _USER + "/appliances/{aid}"
_IMAGE = _APPLIANCE + "/images/{itid}"


@router.post(_APPLIANCE + "/pimages")
def publish(caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id) -> Response:
    return _publish(caller, body, after, uid, aid, None)


@router.post(_IMAGE + "/pimages")
def publish_image(caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id, itid: Id) -> Response:
    return _publish(caller, body, after, uid, aid, itid)


@router.get(_APPLIANCE + "/pimages")
def published_images(caller: Calling, uid: str, aid: Id) -> Response:
    owner = owner_of_appliance(caller, uid, aid)
    return list_tickets(caller, caller.store.tickets.list(owner=owner, appliance_id=aid))


@router.get(_APPLIANCE + "/pimages/statuses")
def statuses(caller: Calling, uid: str, aid: Id) -> Response:
    owner = owner_of_appliance(caller, uid, aid)
    return _statuses(caller, caller.store.tickets.list(owner=owner, appliance_id=aid))


@router.get(_USER + "/pimages")
def published_images_of_user(caller: Calling, uid: str, img: str | None = None) -> Response:
    return list_tickets(caller, _of_user(caller, uid, img))


@router.get(_USER + "/pimages/status")
def statuses_of_user(caller: Calling, uid: str, img: str | None = None) -> Response:
    return _statuses(caller, _of_user(caller, uid, img))


@router.delete(_APPLIANCE + "/pimages")
def delete_published_images(caller: Calling, uid: str, aid: Id) -> Response:
    caller.store.tickets.remove_all(owner_of_appliance(caller, uid, aid), aid)
    return Response(status_code=204)


@router.get(_IMAGE + "/pimages/{pitid}")
def published_image(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, None), aid, itid, pitid)
    caller.check_shown(ticket.platform)
    image = caller.store.images.get(ticket.image_id)
    # That the image is generated again changes what is told of it here.
    changed = max(last_modified(ticket), image.modified if image else 0.0)
    return caller.answer("publishImage", _document(caller, ticket, image), changed)


@router.get(_IMAGE + "/pimages/{pitid}/status")
async def published_image_status(request: Request, caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    seconds = wait_seconds(request)
    ticket = await run_in_threadpool(_polled, caller, uid, aid, itid, pitid)
    watcher: Watcher = request.app.state.watcher
    return respond(request, await watcher.status(request, caller.form, ticket, seconds))


@router.get(_IMAGE + "/pimages/{pitid}/accounts/{caid}")
def published_image_account(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id, caid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, None), aid, itid, pitid)
    if ticket.account_id != caid:
        raise NotFound(f"published image {pitid} has no account {caid}")
    caller.check_shown(ticket.platform)
    return caller.answer("credAccount", ticket_account_document(ticket), ticket.created)


@router.delete(_IMAGE + "/pimages/{pitid}/cancel")
def cancel_publication(caller: Calling, after: BackgroundTasks, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, "image_publish"), aid, itid, pitid)
    publishing.cancel(caller.store, ticket.id, wake_later(after, caller.services.wakeups.ticket))
    return Response(status_code=204)


@router.post(_IMAGE + "/pimages/{pitid}/retry")
def retry_publication(caller: Calling, after: BackgroundTasks, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, "image_publish"), aid, itid, pitid)
    caller.check_shown(ticket.platform)
    return _created(
        caller, publishing.retry(caller.store, ticket.id, wake_later(after, caller.services.wakeups.ticket))
    )


@router.delete(_IMAGE + "/pimages/{pitid}")
def delete_published_image(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, caller.owner(uid, "image_publish"), aid, itid, pitid)
    caller.store.tickets.remove(ticket.id)
    return Response(status_code=204)


def owner_of_appliance(caller: Caller, uid: str, aid: int) -> str:
    """Raises `NotFound` for an appliance that the user does not have: an empty list would say that it has."""
    owner = caller.owner(uid, "appliance_create")
    caller.store.appliances.get(owner, aid)
    return owner


def _publish(caller: Caller, body: bytes, after: BackgroundTasks, uid: str, aid: int, itid: int | None) -> Response:
    owner = caller.owner(uid, "image_publish")

    def request() -> PublishRequest:
        store = caller.store
        if itid is not None:
            store.images.find(owner, aid, itid)  # raises `NotFound`
        document = caller.read(body, "publishImage")
        account = referred_account(store.accounts, document, owner)
        if account and not document.get(TYPE_KEY):
            # Only the account tells the platform, and with it the elements that the document may have.
            document = caller.read(body, "publishImage", account.platform)
        return publish_request(document, owner=owner, appliance_id=aid, image_id=itid, stored=account)

    services = caller.services
    key = idempotency_key(caller, body)
    accepted = publishing.publish(
        caller.store,
        services.sealer,
        request,
        key,
        policy=services.policy,
        wake=wake_later(after, caller.services.wakeups.ticket),
    )
    return _created(caller, accepted.ticket)


def _created(caller: Caller, ticket: Ticket) -> Response:
    document = _document(caller, ticket, caller.store.images.get(ticket.image_id))
    uri = ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)
    return caller.created("publishImage", document, uri)


def _of_user(caller: Caller, uid: str, img: str | None) -> list[Ticket]:
    """A user's tickets, or those of one image: `img` is its URI or its number. Raises `InvalidRequest`."""
    owner = caller.owner(uid, "image_generate")
    tickets = caller.store.tickets
    if img is None:
        return tickets.list(owner=owner)
    if (id := parse_id(img)) is not None:
        return tickets.list(owner=owner, image_id=id)
    login, appliance_id, image_id = parse_image_uri(img, "img")
    return tickets.list(owner=owner, appliance_id=appliance_id, image_id=image_id) if login == owner else []


def list_tickets(caller: Caller, found: Sequence[Ticket]) -> Response:
    shown = caller.platforms
    tickets = [each for each in found if each.platform in shown]
    images = {image.id: image for image in caller.store.images.list(owner=tickets[0].owner)} if tickets else {}
    documents = [_document(caller, ticket, images.get(ticket.image_id)) for ticket in tickets]
    listed = {"total": len(documents), "publishImages": documents}
    changed = max([last_modified(*tickets), *(image.modified for image in images.values())])
    return caller.answer("publishImages", listed, changed)


def _document(caller: Caller, ticket: Ticket, found: Image | None) -> Document:
    """`found` is what has the number of the ticket's image by now."""
    image = image_of(ticket, found)
    key = ticket_key(caller.services.sealer, ticket, image) if image and image.ready else None
    return ticket_document(ticket, image, key)


def _statuses(caller: Caller, found: Sequence[Ticket]) -> Response:
    # Those of the published images that the lists of these have.
    shown = caller.platforms
    tickets = [each for each in found if each.platform in shown]
    listed = {"total": len(tickets), "statuses": [status_document(ticket) for ticket in tickets]}
    return caller.answer("statuses", listed, last_modified(*tickets))


def _polled(caller: Caller, uid: str, aid: int, itid: int, pitid: int) -> Ticket:
    return _ticket(caller, caller.owner(uid, "image_publish"), aid, itid, pitid)


def _ticket(caller: Caller, owner: str, aid: int, itid: int, pitid: int) -> Ticket:
    found, missing = caller.store.tickets.get(pitid), f"image {itid} has no published image {pitid}"
    return require_own(found, missing, owner, appliance_id=aid, image_id=itid)
