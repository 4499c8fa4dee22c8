"""Pages for a new image: uploaded by the browser, or fetched by a worker."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, BackgroundTasks, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from publisher.console import BASE
from publisher.console.form_fields import told
from publisher.console.page_request import Posted, Sent, Visit, Visiting
from publisher.console.template_filters import sentence
from publisher.core.errors import Conflict, InvalidRequest, PublisherError
from publisher.core.image import checksums, formats
from publisher.services.image_files import fetch
from publisher.web.error_status import status_of
from publisher.web.negotiation import UnsupportedMediaType
from publisher.web.request import wake_later
from publisher.web.uploads import received
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)

_NEW = "/images/new"
_ENTITLEMENT = "image_generate"
_APPLIANCE_MAX = (1 << 63) - 1


@router.get(_NEW)
def new_image(visit: Visiting) -> Response:
    visit.require(_ENTITLEMENT)
    return _page(visit, {})


@router.post(_NEW)
def register(visit: Visiting, form: Posted, after: BackgroundTasks) -> Response:
    """Begin the registration of an image that a worker fetches."""
    visit.require(_ENTITLEMENT)
    try:
        image = fetch(
            visit.store,
            visit.services.settings,
            owner=visit.user.login,
            appliance_id=_appliance(visit, form.get("appliance", "")),
            location=form.get("location", ""),
            name=_name(form.get("name", "")),
            format=form.get("format", ""),
            expected=checksums(md5=form.get("md5sum"), sha256=form.get("sha256sum", "").strip()),
            wake=wake_later(after, visit.services.wakeups.image),
        )
    except InvalidRequest as error:
        return _page(visit, form, told(error), 400)
    except Conflict as error:
        return _page(visit, form, {"": sentence(str(error))}, 409)
    return visit.redirect(f"/images/{image.id}", f"Image {image.id} is being fetched by a worker.")


@router.post("/images/upload")
async def upload(
    request: Request,
    visit: Visiting,
    form: Sent,
    name: str = "",
    format: str = "",
    appliance: str = "",
    file_name: str = "",
    md5sum: str = "",
    sha256sum: str = "",
) -> Response:
    """Register the image in the request's body. A script sends it, and gets the next page or an error in JSON."""
    try:
        visit.require(_ENTITLEMENT)
        if form is not None:
            raise UnsupportedMediaType("the body is to be the image: application/octet-stream")
        image = await received(
            request,
            visit.services.settings,
            visit.store,
            owner=visit.user.login,
            appliance_id=await run_in_threadpool(_appliance, visit, appliance),
            name=_name(name),
            format=format,
            file_name=file_name,
            expected=checksums(md5=md5sum, sha256=sha256sum),
        )
    except PublisherError as error:
        words = " ".join(told(error).values()) if isinstance(error, InvalidRequest) else sentence(str(error))
        return JSONResponse({"message": words}, status_of(error))
    said = visit.redirect(f"/images/{image.id}", f"Image {image.id} is uploaded.")
    answer = JSONResponse({"location": f"{BASE}/images/{image.id}"}, 201)
    answer.raw_headers += [(key, value) for key, value in said.raw_headers if key == b"set-cookie"]
    return answer


def _name(given: str) -> str:
    """Strip a name, but keep one of blanks only: unlike an empty name, it is refused later, as everywhere else."""
    return given.strip() or given


def _appliance(visit: Visit, given: str) -> int:
    """Return the chosen appliance's number; for a new appliance, the next free one. Raises `InvalidRequest`."""
    if given:
        if not (given.isascii() and given.isdecimal() and 0 < int(given[:20]) <= _APPLIANCE_MAX):
            raise InvalidRequest("is not the number of an appliance", field="appliance")
        return int(given)
    owned = visit.store.appliances.list(visit.user.login)
    return max((each.id for each in owned), default=0) + 1


def _page(visit: Visit, form: Mapping[str, str], errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    settings = visit.services.settings
    return visit.page(
        "images/new.html",
        status=status,
        form=form,
        errors=errors,
        appliances=visit.store.appliances.list(visit.user.login),
        formats=formats(),
        hosts=[each.strip() for each in settings.location_hosts.split(",") if each.strip()],
        bytes_max=settings.upload_bytes_max,
    )
