"""GET /schema/uforge.xsd: the XML Schema of the documents. No login."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from publisher.intake.caller import EXTENSIONS, Login, Operation, extensions_wanted
from publisher.intake.wire import xml, xsd
from publisher.web.conditional import constant

router = APIRouter()


@router.get("/schema/uforge.xsd")
@Operation(
    "The XML Schema of the documents",
    login=Login.NONE,
    parameters=(EXTENSIONS,),
    also_answer=(xml.CONTENT_TYPE,),
)
def schema(request: Request) -> Response:
    """It has one form only: whatever `Accept` says, that is the answer. Raises `InvalidRequest`."""
    return constant(request, xsd.document(extensions_wanted(request)), xml.CONTENT_TYPE)
