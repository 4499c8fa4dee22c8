"""Registering generated images: by where they are, or by sending them; generating one again; cancelling."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks, Request, Response
from fastapi.concurrency import run_in_threadpool

from publisher.core.errors import InvalidRequest
from publisher.core.image import Image, checksums
from publisher.core.uris import image_uri, parse_appliance_uri
from publisher.intake.caller import Caller, Calling
from publisher.intake.documents import image_document
from publisher.intake.download_keys import image_key
from publisher.platforms.fields import Document
from publisher.services import image_files
from publisher.web.negotiation import media_type
from publisher.web.request import Id, bounded_body, wake_later
from publisher.web.uploads import received
from publisher.web.writer_threads import WriterRoute, run_as_writer

router = APIRouter(route_class=WriterRoute)

_IMAGES = "/users/{uid}/appliances/{aid}/images"
_ENTITLEMENT = "image_generate"
_BYTES = "application/octet-stream"


@router.post(_IMAGES)
async def register_image(
    request: Request,
    caller: Calling,
    after: BackgroundTasks,
    uid: str,
    aid: Id,
    name: str = "",
    format: str = "",
    fileName: str = "",  # noqa: N803  # a parameter's name on the wire
    md5sum: str = "",
    sha256sum: str = "",
) -> Response:
    """A document that tells where the image is, or, as application/octet-stream, the image itself."""
    owner = await run_in_threadpool(caller.owner, uid, _ENTITLEMENT)
    if media_type(request.headers.get("content-type")) != _BYTES:
        body = await bounded_body(request)
        return await run_as_writer(_begin, caller, after, owner, aid, body)
    image = await received(
        request,
        caller.services.settings,
        caller.store,
        owner=owner,
        appliance_id=aid,
        name=name,
        format=format,
        file_name=fileName,
        expected=checksums(md5=md5sum, sha256=sha256sum),
    )
    return _created(caller, image)


@router.post(_IMAGES + "/{itid:id}")
def generate_again(caller: Calling, after: BackgroundTasks, uid: str, aid: Id, itid: Id) -> Response:
    """Fetch an image again from where it was fetched. Its body, if there is one, is not looked at."""
    owner = caller.owner(uid, _ENTITLEMENT)
    return _created(
        caller,
        image_files.fetch_again(caller.store, owner, aid, itid, wake_later(after, caller.services.wakeups.image)),
    )


@router.delete(_IMAGES + "/{itid}/status")
def cancel_registration(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    caller.store.registrations.cancel(caller.owner(uid, _ENTITLEMENT), aid, itid)
    return Response(status_code=204)


def _begin(caller: Caller, after: BackgroundTasks, owner: str, aid: int, body: bytes) -> Response:
    document = caller.read(body, "image")
    uri = document.get("parentUri")
    if uri is not None and parse_appliance_uri(str(uri), "parentUri") != (owner, aid):
        raise InvalidRequest(f"'{uri}' is not the appliance of the request's path", field="parentUri")
    image = image_files.fetch(
        caller.store,
        caller.services.settings,
        owner=owner,
        appliance_id=aid,
        location=str(document.get("location") or ""),
        name=str(document.get("name") or ""),
        format=_format(document),
        expected=checksums(md5=document.get("md5sum"), sha256=document.get("sha256sum")),
        wake=wake_later(after, caller.services.wakeups.image),
    )
    return _created(caller, image)


def _format(document: Document) -> str:
    """As `format/name`, or as `targetFormat/format/name`."""
    target = document.get("targetFormat")
    for holder in (document, target if isinstance(target, dict) else {}):
        format = holder.get("format")
        if isinstance(format, dict) and format.get("name"):
            return str(format["name"])
    return ""


def _created(caller: Caller, image: Image) -> Response:
    key = image_key(caller.services.sealer, image)
    uri = image_uri(image.owner, image.appliance_id, image.id)
    return caller.created("image", image_document(image, key=key), uri)
