"""Publications: the list, and one of them."""

from __future__ import annotations

from fastapi import APIRouter, Response

from publisher.console.visit import Visiting

router = APIRouter()

_ENTITLEMENT = "image_generate"


@router.get("/publications")
def publications(visit: Visiting) -> Response:
    visit.require(_ENTITLEMENT)
    return visit.page("publications/list.html")
