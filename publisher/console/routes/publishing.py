"""A new publication: what is to be published, by which account, and as what."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from starlette.background import BackgroundTask

from publisher.console.draft import NOT_STORED, Draft, draft
from publisher.console.start import first_steps
from publisher.console.visit import Posted, Visit, Visiting
from publisher.core.errors import Conflict, InvalidRequest, TooMany
from publisher.core.publishing import accept, wake
from publisher.intake.exchange import API
from publisher.intake.problems import status_of

router = APIRouter()

_NEW = "/publications/new"
_ENTITLEMENT = "image_publish"


@router.get(_NEW)
def new_publication(visit: Visiting) -> Response:
    """What the address names (`image`, `account`) is chosen already."""
    visit.require(_ENTITLEMENT)
    return _page(visit, _draft(visit, visit.request.query_params))


@router.post(_NEW)
def publish(visit: Visiting, form: Posted) -> Response:
    """Or, with `show`, the form once more, for what was chosen."""
    visit.require(_ENTITLEMENT)
    drafted = _draft(visit, form)
    if "show" in form:
        return _page(visit, drafted)
    if drafted.errors:
        return _page(visit, drafted, drafted.errors, 400)
    services = visit.services
    try:
        ticket = accept(visit.store, services.sealer, drafted.request(), policy=services.policy)
    except InvalidRequest as error:
        return _page(visit, drafted, drafted.told(error), 400)
    except (Conflict, TooMany) as error:
        return _page(visit, drafted, {"": str(error)}, status_of(error))
    response = visit.redirect(f"/publications/{ticket.id}", f"Accepted: this is ticket {ticket.id}.")
    # The ticket is safe. Waking a worker must not keep anybody waiting, whatever the broker does.
    response.background = BackgroundTask(wake, services.store, services.waker, ticket.id)
    return response


@router.post(_NEW + "/command")
def command(visit: Visiting, form: Posted) -> Response:
    """The same over the API, as far as the form is filled in."""
    visit.require(_ENTITLEMENT)
    return PlainTextResponse(_command(visit, _draft(visit, form)))


def _draft(visit: Visit, form: Mapping[str, str]) -> Draft:
    return draft(visit.services.store, visit.user.login, visit.owner, form)


def _command(visit: Visit, drafted: Draft) -> str:
    base = visit.services.settings.public_url.rstrip("/") or str(visit.request.base_url).rstrip("/")
    return drafted.command(f"{base}{API}", visit.user.login)


def _page(visit: Visit, drafted: Draft, errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    return visit.page(
        "publishing/new.html",
        status=status,
        draft=drafted,
        not_stored=NOT_STORED,
        errors=errors,
        command=_command(visit, drafted),
        steps=first_steps(visit.services.store, visit.user),
    )
