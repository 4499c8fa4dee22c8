"""Images: list, register, get, delete and download them; show and cancel their registration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import Response

from publisher.core.download_keys import image_key
from publisher.core.errors import InvalidRequest
from publisher.core.image import Image, checksums, image_uri, parse_appliance_uri, parse_image_uri
from publisher.core.uris import parse_id
from publisher.intake.caller import LISTING, OF_IMAGE, Caller, Calling, Listed, Login, Operation, Parameter, api_router
from publisher.intake.documents import image_document, image_status_document
from publisher.intake.downloads import DOWNLOAD_KEY, send_image_file
from publisher.services import image_files
from publisher.web import IMAGE_TYPE, From, Id, bounded_body, is_image, received, wake_later, writers

router = api_router()

_USER = "/users/{uid}"
_IMAGES = _USER + "/appliances/{aid}/images"
_NOT_READY = "the image is not ready"

# These answers are dated with the time of the request: deleting an image makes a list no newer, and a registration
# changes all the time. Their ETag is exact.


def _owner(caller: Calling, uid: str) -> str:
    return caller.owner(uid)


Owner = Annotated[str, From(_owner)]


@router.get(_IMAGES)
@Operation("List the images of an appliance", entitlement="appliance_create", answer="images", parameters=LISTING)
def images(caller: Calling, uid: str, aid: Id, listing: Listed) -> Response:
    owner = caller.owner_of_appliance(uid, aid)
    found = caller.store.images.page(owner, aid, listing)
    return _list(caller, found.items, found.total)


@router.get(_USER + "/images")
@Operation("List the images of a user", entitlement="image_generate", answer="images", parameters=(OF_IMAGE,))
def images_of_user(caller: Calling, uid: str, img: str | None = None) -> Response:
    """List a user's images, or one image: `img` is its URI or its number. Raises `InvalidRequest` for anything else."""
    owner = caller.owner(uid)
    store = caller.store.images
    if img is None:
        return _list(caller, store.list(owner=owner))
    if (id := parse_id(img)) is not None:
        return _list(caller, store.list(owner=owner, id=id))
    login, appliance_id, image_id = parse_image_uri(img, "img")
    return _list(caller, store.list(owner=owner, appliance_id=appliance_id, id=image_id) if login == owner else [])


@router.post(_IMAGES)
@Operation(
    "Register an image: the body names its location, or is the image",
    entitlement="image_generate",
    body="image",
    answer="image",
    status=201,
    parameters=(
        Parameter("name", "Name of the image, if the body is the image.", {"type": "string"}),
        Parameter("fileName", "Name of the file, if the body is the image.", {"type": "string"}),
        Parameter("format", "Format of the image, if the body is the image.", {"type": "string"}),
        Parameter("md5sum", "Expected MD5 of the image, if the body is the image.", {"type": "string"}),
        Parameter("sha256sum", "Expected SHA-256 of the image, if the body is the image.", {"type": "string"}),
    ),
    also_body=(IMAGE_TYPE,),
)
async def register_image(
    request: Request,
    caller: Calling,
    after: BackgroundTasks,
    owner: Owner,
    aid: Id,
    name: str = "",
    format: str = "",
    fileName: str = "",  # noqa: N803  # a parameter's name on the wire
    md5sum: str = "",
    sha256sum: str = "",
) -> Response:
    """Register an image: the body is a document that names its location, or the image itself (octet-stream)."""
    if not is_image(request):
        body = await bounded_body(request)
        return await writers.run(_begin, caller, after, owner, aid, body)
    image = await received(
        request,
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
@Operation(
    "Fetch an image again from its location",
    entitlement="image_generate",
    answer="image",
    status=201,
    conflict="the image has no location, or is in use",
)
def generate_again(caller: Calling, after: BackgroundTasks, uid: str, aid: Id, itid: Id) -> Response:
    """Fetch an image again from its location. The request's body is ignored."""
    owner = caller.owner(uid)
    return _created(
        caller,
        image_files.fetch_again(caller.store, owner, aid, itid, wake_later(after, caller.services.wakeups.image)),
    )


@router.get(_IMAGES + "/{itid:id}")
@Operation("Get an image", entitlement="appliance_create", answer="image")
def image(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    found = _image(caller, uid, aid, itid)
    appliance = caller.store.appliances.find(found.owner, aid)
    document = image_document(
        found,
        distribution=appliance.distribution if appliance else None,
        key=image_key(caller.services.sealer, found),
    )
    return caller.answer(document, _modified(found))


@router.get(_IMAGES + "/{itid}/status")
@Operation("Get the status of an image's registration", entitlement="appliance_create", answer="status")
def image_status(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    found = _image(caller, uid, aid, itid)
    return caller.answer(image_status_document(found), _modified(found))


@router.get(_IMAGES + "/statuses")
@Operation("List the registration statuses of an appliance's images", entitlement="appliance_create", answer="statuses")
def image_statuses(caller: Calling, uid: str, aid: Id) -> Response:
    owner = caller.owner_of_appliance(uid, aid)
    found = caller.store.images.list(owner=owner, appliance_id=aid)
    documents = [image_status_document(image) for image in found]
    return caller.answer({"total": len(documents), "statuses": documents}, time.time())


@router.delete(_IMAGES + "/{itid:id}")
@Operation(
    "Delete an image",
    entitlement="appliance_create",
    status=204,
    conflict="a publication that has not ended uses the image",
)
def delete_image(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    owner = caller.owner(uid)
    image_files.delete(caller.store, caller.services.settings.images, owner, aid, itid)
    return Response(status_code=204)


@router.delete(_IMAGES)
@Operation(
    "Delete all images of an appliance",
    entitlement="appliance_create",
    status=204,
    conflict="a publication that has not ended uses one of them; then none is deleted",
)
def delete_images(caller: Calling, uid: str, aid: Id) -> Response:
    owner = caller.owner_of_appliance(uid, aid)
    image_files.delete(caller.store, caller.services.settings.images, owner, aid)
    return Response(status_code=204)


@router.delete(_IMAGES + "/{itid}/status")
@Operation(
    "Cancel the registration of an image",
    entitlement="image_generate",
    status=204,
    conflict="the registration has ended",
)
def cancel_registration(caller: Calling, uid: str, aid: Id, itid: Id) -> Response:
    caller.store.registrations.cancel(caller.owner(uid), aid, itid)
    return Response(status_code=204)


@router.get(_IMAGES + "/{itid}/downloads")
@Operation(
    "Download the file of an image",
    parameters=(DOWNLOAD_KEY,),
    conflict=_NOT_READY,
    login=Login.OR_KEY,
    also_answer=(IMAGE_TYPE,),
)
def image_file(request: Request, uid: str, aid: Id, itid: Id) -> Response:
    return send_image_file(request, uid, aid, itid)


@router.get(_IMAGES + "/{itid}/downloads/{file_name}")
@Operation(
    "Download the file of an image under its name",
    parameters=(DOWNLOAD_KEY,),
    conflict=_NOT_READY,
    login=Login.OR_KEY,
    also_answer=(IMAGE_TYPE,),
)
def named_image_file(request: Request, uid: str, aid: Id, itid: Id, file_name: str) -> Response:
    return send_image_file(request, uid, aid, itid, file_name)


def _begin(caller: Caller, after: BackgroundTasks, owner: str, aid: int, body: bytes) -> Response:
    document = caller.read(body)
    uri = document.get("parentUri")
    if uri is not None and parse_appliance_uri(str(uri), "parentUri") != (owner, aid):
        raise InvalidRequest(f"'{uri}' is not the appliance in the request's path", field="parentUri")
    image = image_files.fetch(
        caller.store,
        caller.services.settings,
        owner=owner,
        appliance_id=aid,
        location=str(document.get("location") or ""),
        name=str(document.get("name") or ""),
        format=_format_name(document) or _format_name(document.get("targetFormat")),
        expected=checksums(md5=document.get("md5sum"), sha256=document.get("sha256sum")),
        wake=wake_later(after, caller.services.wakeups.image),
    )
    return _created(caller, image)


def _format_name(holder: object) -> str:
    """Return the `format/name` in an element; "" without one."""
    format = holder.get("format") if isinstance(holder, dict) else None
    return str(format.get("name") or "") if isinstance(format, dict) else ""


def _created(caller: Caller, image: Image) -> Response:
    key = image_key(caller.services.sealer, image)
    uri = image_uri(image.owner, image.appliance_id, image.id)
    return caller.created(image_document(image, key=key), uri)


def _image(caller: Caller, uid: str, aid: int, itid: int) -> Image:
    return caller.store.images.find(caller.owner(uid), aid, itid)


def _list(caller: Caller, found: Sequence[Image], total: int | None = None) -> Response:
    # Include the keys: existing clients download an image from the `downloadUri` that they find in a list.
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
    return caller.answer(listed, time.time())


def _modified(image: Image) -> float:
    """Return when the image was changed. During registration that is now: progress does not update `modified`."""
    return image.modified if image.final else time.time()
