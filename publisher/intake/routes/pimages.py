"""Published images: publish, list, get, cancel, retry, withdraw, delete and download them; show their status."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import Response

from publisher.core.asking import Asking, alone
from publisher.core.download_keys import ticket_key
from publisher.core.errors import NotFound, PublisherError, require_own
from publisher.core.image import Image, parse_image_uri
from publisher.core.ticket import Ticket, image_of, ticket_uri
from publisher.core.uris import parse_id
from publisher.intake.caller import (
    EXTENSIONS,
    IDEMPOTENCY_KEY,
    OF_IMAGE,
    PREFLIGHT,
    Caller,
    Calling,
    Login,
    Operation,
    Parameter,
    api_router,
    preflight_wanted,
)
from publisher.intake.documents import last_modified, status_document, ticket_account_document, ticket_document
from publisher.intake.downloads import DOWNLOAD_KEY, send_ticket_file
from publisher.intake.long_poll import WAIT, Watcher, wait_seconds
from publisher.intake.publish_request import read_account, read_publish_request
from publisher.intake.wire.writing import write_list
from publisher.platforms.platform import CRED_ACCOUNT, PUBLISH_IMAGE, Document
from publisher.services import checks, publishing
from publisher.services.publishing import PublishRequest
from publisher.store import Extent, ListState, TicketFilter
from publisher.web import (
    AnsweredLater,
    Body,
    From,
    Id,
    Rendered,
    caller_has,
    check_results,
    etag_of,
    may_take_long,
    respond,
    stream,
    unchanged,
    wake_later,
    writers,
)

router = api_router()

_USER = "/users/{uid}"
_APPLIANCE = _USER + "/appliances/{aid}"
_IMAGE = _APPLIANCE + "/images/{itid}"

_NOT_READY = "the image is not ready"


@router.post(_APPLIANCE + "/pimages")
@Operation(
    "Publish the image that the body names",
    entitlement="image_publish",
    body=PUBLISH_IMAGE,
    answer=PUBLISH_IMAGE,
    status=201,
    parameters=(PREFLIGHT, IDEMPOTENCY_KEY),
    conflict=_NOT_READY,
)
def publish(caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id) -> Asking[Response]:
    return (yield from _publish(caller, body, after, uid, aid, None))


@router.post(_IMAGE + "/pimages")
@Operation(
    "Publish an image",
    entitlement="image_publish",
    body=PUBLISH_IMAGE,
    answer=PUBLISH_IMAGE,
    status=201,
    parameters=(PREFLIGHT, IDEMPOTENCY_KEY),
    conflict=_NOT_READY,
)
def publish_image(caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id, itid: Id) -> Asking[Response]:
    return (yield from _publish(caller, body, after, uid, aid, itid))


@router.get(_IMAGE + "/pimages")
@Operation(
    "List the published images of an image",
    entitlement="appliance_create",
    answer="publishImages",
    parameters=(EXTENSIONS,),
)
def published_images_of_image(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    """List the published images of one image. An extension: an image's `basePublishImagesUri` leads here."""
    owner = caller.owner(uid)
    caller.store.images.find(owner, aid, itid)
    return _list(caller, TicketFilter(owner, aid, itid))


@router.get(_APPLIANCE + "/pimages")
@Operation(
    "List the published images of an appliance",
    entitlement="appliance_create",
    answer="publishImages",
    parameters=(EXTENSIONS,),
)
def published_images(caller: Calling, uid: str, aid: Id) -> Response:
    return _list(caller, TicketFilter(caller.owner_of_appliance(uid, aid), aid))


@router.get(_APPLIANCE + "/pimages/statuses")
@Operation(
    "List the statuses of an appliance's published images",
    entitlement="appliance_create",
    answer="statuses",
    parameters=(EXTENSIONS,),
)
def statuses(caller: Calling, uid: str, aid: Id) -> Response:
    return _list(caller, TicketFilter(caller.owner_of_appliance(uid, aid), aid))


@router.get(_IMAGE + "/pimages/{pitid}")
@Operation("Get a published image", answer=PUBLISH_IMAGE, parameters=(EXTENSIONS,), beside=Extent.WHOLE)
def published_image(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, uid, aid, itid, pitid)
    caller.check_shown(ticket.platform)
    image = caller.found.image
    # The answer describes the image, too, which changes when it is fetched again.
    changed = max(last_modified(ticket), image.modified if image else 0.0)
    return caller.answer(_document(caller, ticket, image), changed)


def _polled(request: Request, caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> tuple[Ticket, float]:
    """Return the ticket, and for how many seconds the answer may be held."""
    seconds = wait_seconds(request)
    return _ticket(caller, uid, aid, itid, pitid), seconds


Polled = Annotated[tuple[Ticket, float], From(_polled)]


@router.get(_IMAGE + "/pimages/{pitid}/status")
@Operation(
    "Get the status of a publication",
    entitlement="image_publish",
    answer="status",
    parameters=(WAIT,),
    beside=Extent.STATUS,
)
async def published_image_status(request: Request, caller: Calling, polled: Polled) -> Response:
    ticket, seconds = polled
    watcher: Watcher = request.app.state.watcher
    return await watcher.answer(request, caller.form, ticket, seconds)


@router.get(_IMAGE + "/pimages/{pitid}/accounts/{caid}")
@Operation(
    "Get the account of a published image, as it was when the ticket was created",
    answer=CRED_ACCOUNT,
    parameters=(EXTENSIONS,),
)
def published_image_account(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id, caid: Id) -> Response:
    ticket = _ticket(caller, uid, aid, itid, pitid)
    if ticket.account_id != caid:
        raise NotFound(f"published image {pitid} has no account {caid}")
    caller.check_shown(ticket.platform)
    return caller.answer(ticket_account_document(ticket), ticket.created)


@router.delete(_IMAGE + "/pimages/{pitid}/cancel")
@Operation("Cancel a publication", entitlement="image_publish", status=204, conflict="the publication has ended")
def cancel_publication(caller: Calling, after: BackgroundTasks, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, uid, aid, itid, pitid)
    publishing.cancel(caller.store, ticket.id, wake_later(after, caller.services.wakeups.ticket))
    return Response(status_code=204)


@router.post(_IMAGE + "/pimages/{pitid}/retry")
@Operation(
    "Retry a publication",
    entitlement="image_publish",
    answer=PUBLISH_IMAGE,
    status=201,
    parameters=(EXTENSIONS,),
    conflict="the publication has neither failed nor been cancelled",
)
def retry_publication(caller: Calling, after: BackgroundTasks, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, uid, aid, itid, pitid)
    caller.check_shown(ticket.platform)
    return _created(
        caller, publishing.retry(caller.store, ticket.id, wake_later(after, caller.services.wakeups.ticket))
    )


@router.post(_IMAGE + "/pimages/{pitid}/withdraw")
@Operation(
    "Withdraw a published image: delete it from the cloud",
    entitlement="image_publish",
    body=CRED_ACCOUNT,
    body_optional=True,
    answer="status",
    conflict="the publication has failed, so there is nothing to withdraw",
)
def withdraw_publication(
    caller: Calling, body: Body, after: BackgroundTasks, uid: str, aid: Id, itid: Id, pitid: Id
) -> Response:
    """Withdraw a published image, or cancel a publication that has not ended. An extension."""
    ticket = _ticket(caller, uid, aid, itid, pitid)
    services = caller.services
    request = read_account(caller, body, ticket)
    given = publishing.account_given(services.sealer, request, services.policy) if request else None
    withdrawn = publishing.withdraw(caller.store, ticket.id, wake_later(after, services.wakeups.ticket), given)
    return caller.changed(status_document(withdrawn))


@router.delete(_IMAGE + "/pimages/{pitid}")
@Operation(
    "Delete the record of a published image; the image stays in the cloud",
    entitlement="image_publish",
    status=204,
    conflict="the publication has not ended",
)
def delete_published_image(caller: Calling, uid: str, aid: Id, itid: Id, pitid: Id) -> Response:
    ticket = _ticket(caller, uid, aid, itid, pitid)
    caller.store.tickets.remove(ticket.id)
    return Response(status_code=204)


@router.delete(_APPLIANCE + "/pimages")
@Operation(
    "Delete the records of all published images of an appliance; the images stay in their clouds",
    entitlement="appliance_create",
    status=204,
    conflict="one of them has not ended; then none is deleted",
)
def delete_published_images(caller: Calling, uid: str, aid: Id) -> Response:
    caller.store.tickets.remove_all(caller.owner_of_appliance(uid, aid), aid)
    return Response(status_code=204)


@router.get(_APPLIANCE + "/pimages/{pitid}/downloads")
@Operation(
    "Download the file of a published image",
    parameters=(DOWNLOAD_KEY, Parameter("id", "The same as `downloadId`.", {"type": "string"})),
    conflict=_NOT_READY,
    login=Login.OR_KEY,
    also_answer=("application/octet-stream",),
)
def published_image_file(request: Request, uid: str, aid: Id, pitid: Id) -> Response:
    return send_ticket_file(request, uid, aid, pitid)


@router.get(_USER + "/pimages")
@Operation(
    "List the published images of a user",
    entitlement="image_generate",
    answer="publishImages",
    parameters=(OF_IMAGE, EXTENSIONS),
)
def published_images_of_user(caller: Calling, uid: str, img: str | None = None) -> Response:
    return _list(caller, _of_user(caller, uid, img))


@router.get(_USER + "/pimages/status")
@Operation(
    "List the statuses of a user's published images",
    entitlement="image_generate",
    answer="statuses",
    parameters=(OF_IMAGE, EXTENSIONS),
)
def statuses_of_user(caller: Calling, uid: str, img: str | None = None) -> Response:
    return _list(caller, _of_user(caller, uid, img))


def _publish(
    caller: Caller, body: bytes, after: BackgroundTasks, uid: str, aid: int, itid: int | None
) -> Asking[Response]:
    owner = caller.owner(uid)

    def request() -> PublishRequest:
        try:
            return read_publish_request(caller, body, owner=owner, appliance_id=aid, image_id=itid)
        except PublisherError:
            if itid is not None:
                # Without the image there is no such path, whatever is wrong with the body. Raises `NotFound`.
                caller.store.images.find(owner, aid, itid)
            raise

    services = caller.services
    key = caller.idempotency_key(body)
    before_waiting = partial(may_take_long, caller.request)
    publish = partial(
        publishing.publish,
        caller.store,
        services.sealer,
        request,
        key,
        policy=services.policy,
        wake=wake_later(after, caller.services.wakeups.ticket),
    )
    if preflight_wanted(caller.request):
        check_id = yield from checks.begin_preflight(
            caller.store, services.sealer, request, key, policy=services.policy, before_waiting=before_waiting
        )
        if check_id is not None:
            return AnsweredLater(partial(_after_preflight, caller, check_id, publish, after))
    accepted = yield from publish(before_waiting=before_waiting)
    return _created(caller, accepted.ticket, accepted.image)


async def _after_preflight(
    caller: Caller, check_id: int, publish: Callable[[], Asking[publishing.Accepted]], after: BackgroundTasks
) -> Response:
    """Wait for the preflight, and publish if the cloud would accept the image."""
    checks.require_passed(await check_results(caller.request).result(check_id))

    def create() -> Response:
        accepted = alone(publish())
        return _created(caller, accepted.ticket, accepted.image)

    created = await writers.run(create)
    created.background = after
    return created


def _created(caller: Caller, ticket: Ticket, image: Image | None = None) -> Response:
    document = _document(caller, ticket, image or caller.store.images.get(ticket.image_id))
    uri = ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)
    return caller.created(document, uri)


def _of_user(caller: Caller, uid: str, img: str | None) -> TicketFilter:
    """Select a user's tickets, or those of one image: `img` is its URI or its number. Raises `InvalidRequest`."""
    owner = caller.owner(uid)
    if img is None:
        return TicketFilter(owner)
    if (id := parse_id(img)) is not None:
        return TicketFilter(owner, image_id=id)
    login, appliance_id, image_id = parse_image_uri(img, "img")
    return TicketFilter(owner, appliance_id, image_id) if login == owner else TicketFilter(owner, ids=())


def _list(caller: Caller, wanted: TicketFilter) -> Response:
    """Answer with a list of tickets or of their statuses, as the route declares. A long one is sent while it is read.

    Its ETag comes from the list's state, so that it can be sent first and a 304 needs no document. It depends on the
    vault's key, because the download keys do.
    """
    root, shown = caller.operation.answer, caller.platforms
    extent = Extent.STATUS if root == "statuses" else Extent.WHOLE

    def etag(state: ListState) -> str:
        key = caller.services.sealer.mac("list", "")
        return etag_of(key, root, caller.form.content_type, wanted, sorted(shown), state.version)

    def known(state: ListState) -> bool:
        return caller_has(caller.request, etag(state), math.ceil(state.changed))

    found = caller.store.publications.whole(replace(wanted, platforms=shown), extent, unless=known)
    if isinstance(found, ListState):
        return unchanged(etag(found), math.ceil(found.changed))

    def document(ticket: Ticket, image: Image | None) -> Document:
        return status_document(ticket) if extent is Extent.STATUS else _document(caller, ticket, image)

    pages = ([document(ticket, image) for ticket, image in page] for page in found.pages)
    pieces = write_list(caller.form, root, found.state.total, pages)
    validators = etag(found.state), math.ceil(found.state.changed)
    if not found.short:
        return stream(caller.request, pieces, caller.form.content_type, *validators)
    return respond(caller.request, Rendered(partial(b"".join, pieces), caller.form.content_type, *validators))


def _document(caller: Caller, ticket: Ticket, found: Image | None) -> Document:
    """Return the `publishImage`. `found` is the image that now has the number of the ticket's image."""
    image = image_of(ticket, found)
    key = ticket_key(caller.services.sealer, ticket, image) if image and image.ready else None
    return ticket_document(ticket, image, key)


def _ticket(caller: Caller, uid: str, aid: int, itid: int, pitid: int) -> Ticket:
    owner = caller.owner(uid)
    found = caller.found.ticket if caller.operation.beside else caller.store.tickets.get(pitid)
    missing = f"image {itid} has no published image {pitid}"
    return require_own(found, missing, owner, appliance_id=aid, image_id=itid)
