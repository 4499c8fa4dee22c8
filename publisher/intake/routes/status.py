"""Whether the service is alive. No login is needed, but clients try their API keys here."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from publisher.intake.caller import Login, Operation, answer, api_router
from publisher.version import UFORGE_API_VERSION
from publisher.web.negotiation import answer_format
from publisher.web.request import services, signer

router = api_router()


@router.get("/status")
@Operation(
    "Check whether the service is alive",
    answer="serviceStatus",
    login=Login.SIGNED_OR_NONE,
    not_found=False,
    also_answer=("text/plain",),
)
def service_status(request: Request) -> Response:
    signer(request)
    accept = request.headers.get("accept", "")
    if accept.partition(",")[0].partition(";")[0].strip().lower() == "text/plain":
        return Response("alive\n", media_type="text/plain")
    form = answer_format(accept or None)
    document = {"alive": True, "version": UFORGE_API_VERSION, "serviceLoad": 0}
    return answer(request, form, "serviceStatus", document, services(request).started)
