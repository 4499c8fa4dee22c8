"""Whether the service is alive. No login is needed, but clients try their API keys here."""

from __future__ import annotations

from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from publisher.intake.caller import Login, Operation, api_router, rendered
from publisher.version import UFORGE_API_VERSION
from publisher.web.conditional import Rendered, respond
from publisher.web.negotiation import Format, answer_format
from publisher.web.request import services, signer
from publisher.web.threads import readers

router = api_router()


@router.get("/status")
@Operation(
    "Check whether the service is alive",
    answer="serviceStatus",
    login=Login.SIGNED_OR_NONE,
    not_found=False,
    also_answer=("text/plain",),
)
async def service_status(request: Request) -> Response:
    if request.scope["query_string"]:
        await readers.run(signer, request)
    accept = request.headers.get("accept", "")
    if accept.partition(",")[0].partition(";")[0].strip().lower() == "text/plain":
        return Response("alive\n", media_type="text/plain")
    form = answer_format(accept or None)
    return respond(request, _status(form, services(request).started))


@lru_cache(8)
def _status(form: Format, started: float) -> Rendered:
    document = {"alive": True, "version": UFORGE_API_VERSION, "serviceLoad": 0}
    return rendered(form, "serviceStatus", document, started)
