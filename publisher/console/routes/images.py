"""Pages for images: the list, one image and its file; generate again, cancel the registration, delete."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Response

from publisher.console.live_updates import PageParts
from publisher.console.page_request import Visit, Visiting
from publisher.console.rendering import render
from publisher.core.errors import NotFound, require_own
from publisher.core.image import Image, ImageState
from publisher.files import unfinished
from publisher.services import image_files
from publisher.web.file_response import send_image
from publisher.web.request import Id, wake_later
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)

_SEE, _REGISTER, _DELETE = "image_generate", "image_generate", "appliance_create"
_PAGE = 50
_TEXT_MAX = 255


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
def generate_again(visit: Visiting, after: BackgroundTasks, id: Id) -> Response:
    visit.require(_REGISTER)
    found = _found(visit, id)
    wake = wake_later(after, visit.services.wakeups.image)
    image_files.fetch_again(visit.store, found.owner, found.appliance_id, id, wake)
    return visit.redirect(f"/images/{id}", "The image is fetched again.")


@router.post("/images/{id}/cancel")
def cancel(visit: Visiting, id: Id) -> Response:
    visit.require(_REGISTER)
    found = _found(visit, id)
    visit.store.registrations.cancel(found.owner, found.appliance_id, id)
    return visit.redirect(f"/images/{id}", "The registration is cancelled.")


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
    return visit.redirect("/images", f"Image {id}, {found.name}, is deleted.")


def _found(visit: Visit, id: int) -> Image:
    """Return an image. Raises `NotAllowed`, or `NotFound` if it is missing or belongs to someone else."""
    visit.require(_SEE)
    return require_own(visit.store.images.get(id), f"There is no image {id}.", visit.owner)


def _list_path(query: dict[str, str]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"/images?{urlencode(given)}" if given else "/images"
