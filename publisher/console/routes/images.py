"""Pages for images: list, add, show, download, fetch again, cancel the registration, delete.

A new image is uploaded by the browser, or fetched by a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from publisher.console.page_request import Id, Posted, Sent, Visit, Visiting, page_router
from publisher.console.rendering import BASE, PageParts, field_errors, render, sentence
from publisher.core.errors import Conflict, InvalidRequest, NotFound, PublisherError, require_own
from publisher.core.image import Image, ImageState, checksums, formats
from publisher.core.uris import parse_id
from publisher.files import unfinished
from publisher.services import image_files
from publisher.web import no_image, received, send_image, status_of

router = page_router()

_SEE, _REGISTER, _DELETE = "image_generate", "image_generate", "appliance_create"
_PAGE = 50
_TEXT_MAX = 255
_NEW = "/images/new"


@router.get("/images")
def images(visit: Visiting, q: str = "", state: str = "", before: Id | None = None) -> Response:
    visit.require(_SEE)
    text = q.strip()[:_TEXT_MAX].replace("\0", "")
    wanted = ImageState(state) if state in set(ImageState) else None
    store = visit.store.images
    found = store.latest(_PAGE + 1, before=before, owner=visit.owner, text=text, state=wanted)
    filters = {"q": text, "state": wanted or ""}
    return visit.page(
        "images/list.html",
        images=found[:_PAGE],
        states=list(ImageState),
        filters=filters,
        filtered=bool(text or wanted),
        newest=_list_path(filters) if before else None,
        older=_list_path(filters | {"before": str(found[_PAGE - 1].id)}) if len(found) > _PAGE else None,
    )


# These come before the pages of numbered images, whose paths match /images/new, too.


@router.get(_NEW)
def new_image(visit: Visiting) -> Response:
    visit.require(_REGISTER)
    return _new_page(visit, {})


@router.post(_NEW)
def register(visit: Visiting, form: Posted) -> Response:
    """Begin the registration of an image that a worker fetches."""
    visit.require(_REGISTER)
    try:
        image = image_files.fetch(
            visit.store,
            visit.services.settings,
            owner=visit.user.login,
            appliance_id=_appliance(visit, form.get("appliance", "")),
            location=form.get("location", ""),
            name=_name(form.get("name", "")),
            format=form.get("format", ""),
            expected=checksums(md5=form.get("md5sum"), sha256=form.get("sha256sum", "").strip()),
            wake=visit.wake_image,
        )
    except InvalidRequest as error:
        return _new_page(visit, form, field_errors(error), 400)
    except Conflict as error:
        return _new_page(visit, form, {"": sentence(str(error))}, 409)
    return visit.redirect(f"/images/{image.id}", f"A worker is fetching image {image.id}.")


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
        visit.require(_REGISTER)
        if form is not None:
            raise no_image()
        image = await received(
            request,
            visit.store,
            owner=visit.user.login,
            appliance_id=await run_in_threadpool(_appliance, visit, appliance),
            name=_name(name),
            format=format,
            file_name=file_name,
            expected=checksums(md5=md5sum, sha256=sha256sum),
        )
    except PublisherError as error:
        words = " ".join(field_errors(error).values()) if isinstance(error, InvalidRequest) else sentence(str(error))
        return JSONResponse({"message": words}, status_of(error))
    redirect = visit.redirect(f"/images/{image.id}", f"Image {image.id} uploaded.")
    answer = JSONResponse({"location": f"{BASE}/images/{image.id}"}, 201)
    answer.raw_headers += [(key, value) for key, value in redirect.raw_headers if key == b"set-cookie"]
    return answer


@router.get("/images/{id}")
def image(visit: Visiting, id: Id) -> Response:
    found = _found(visit, id)
    store = visit.store
    appliance = store.appliances.find(found.owner, found.appliance_id)
    tickets = store.publications.of_image(found, _PAGE)
    return visit.page("images/image.html", image=found, appliance=appliance, tickets=tickets, most=_PAGE)


@router.get("/images/{id}/events")
def events(visit: Visiting, id: Id) -> Response:
    """Send the state of the registration. Once it has ended, the page reloads."""
    _found(visit, id)

    def look() -> PageParts:
        now = _found(visit, id)
        if now.final:
            raise NotFound
        return PageParts({"standing": render("images/standing.html", image=now)})

    return visit.live(look)


@router.get("/images/{id}/file")
def file(visit: Visiting, id: Id) -> Response:
    return send_image(visit.request, visit.services, _found(visit, id))


@router.post("/images/{id}/again")
def generate_again(visit: Visiting, id: Id) -> Response:
    visit.require(_REGISTER)
    found = _found(visit, id)
    image_files.fetch_again(visit.store, found.owner, found.appliance_id, id, visit.wake_image)
    return visit.redirect(f"/images/{id}", "A worker is fetching the image again.")


@router.post("/images/{id}/cancel")
def cancel(visit: Visiting, id: Id) -> Response:
    visit.require(_REGISTER)
    found = _found(visit, id)
    visit.store.registrations.cancel(found.owner, found.appliance_id, id)
    return visit.redirect(f"/images/{id}", "Registration cancelled.")


@router.get("/images/{id}/delete")
def delete_page(visit: Visiting, id: Id) -> Response:
    """Show what the deletion would do."""
    visit.require(_DELETE)
    found = _found(visit, id)
    publications = visit.store.publications
    return visit.page(
        "images/delete.html",
        image=found,
        ours=unfinished.is_ours(found.location),
        published=bool(publications.of_image(found, 1)),
        unfinished=publications.of_image(found, _PAGE, unfinished=True),
    )


@router.post("/images/{id}/delete")
def delete(visit: Visiting, id: Id) -> Response:
    visit.require(_DELETE)
    found = _found(visit, id)
    image_files.delete(visit.store, visit.services.settings.images, found.owner, found.appliance_id, id)
    return visit.redirect("/images", f"Image {id} ({found.name}) deleted.")


def _found(visit: Visit, id: int) -> Image:
    """Return an image. Raises `NotAllowed`, or `NotFound` if it is missing or belongs to someone else."""
    visit.require(_SEE)
    return require_own(visit.store.images.get(id), f"There is no image {id}.", visit.owner)


def _list_path(query: dict[str, str]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"/images?{urlencode(given)}" if given else "/images"


def _name(given: str) -> str:
    """Strip a name, but keep one of blanks only: unlike an empty name, it is refused later, as it is everywhere."""
    return given.strip() or given


def _appliance(visit: Visit, given: str) -> int:
    """Return the chosen appliance's number; for a new appliance, the next free one. Raises `InvalidRequest`."""
    if given:
        if (id := parse_id(given)) is None:
            raise InvalidRequest("is not the number of an appliance", field="appliance")
        return id
    owned = visit.store.appliances.list(visit.user.login)
    return max((each.id for each in owned), default=0) + 1


def _new_page(visit: Visit, form: Mapping[str, str], errors: Mapping[str, str] = {}, status: int = 200) -> Response:
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
