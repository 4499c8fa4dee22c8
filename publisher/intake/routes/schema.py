"""GET /schema/uforge.xsd: the XML Schema of the documents. No login."""

from __future__ import annotations

import hashlib
import math
import time
from email.utils import formatdate

from fastapi import APIRouter, Request, Response

from publisher.intake.exchange import caller_has, services
from publisher.intake.wire import xml, xsd

router = APIRouter()


@router.get("/schema/uforge.xsd")
def schema(request: Request) -> Response:
    """It has one form only: whatever `Accept` says, that is the answer."""
    body = xsd.document()
    changed = math.ceil(services(request).started)
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Last-Modified": formatdate(min(changed, math.floor(time.time())), usegmt=True),
        "Cache-Control": "no-cache",
    }
    if caller_has(request, headers["ETag"], changed):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=xml.CONTENT_TYPE)
