"""About the service, without a login: its status, the XML Schema, the OpenAPI document, and /docs, which shows it.

Clients try their API keys on the status.
"""

from __future__ import annotations

import mimetypes
from functools import cache, lru_cache

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from swagger_ui_bundle import swagger_ui_path

from publisher.intake.caller import EXTENSIONS, Login, Operation, api_router, extensions_wanted, rendered
from publisher.intake.wire import xsd
from publisher.intake.wire.formats import Format, answer_format
from publisher.version import UFORGE_API_VERSION
from publisher.web import API, Rendered, constant, readers, respond, services, signer

router = api_router()
docs_router = api_router()


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


# Descriptions of the API ----------------------------------------------------------------------------------------------

_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
"""The files of Swagger UI that the page needs. Its package contains them."""

_PAGE = b"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Image publisher: the API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START_NAME = "start.js"
_START = f"""\
SwaggerUIBundle({{url: "{API.removeprefix("/")}/openapi.json", dom_id: "#swagger-ui", validatorUrl: null}});
""".encode()
_HEADERS = {
    # The page loads nothing from other hosts and contains no script. Swagger UI writes styles into its elements, and
    # its style sheet contains its pictures.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


@router.get("/schema/uforge.xsd")
@Operation(
    "Get the XML Schema of the documents",
    login=Login.NONE,
    parameters=(EXTENSIONS,),
    also_answer=(Format.XML.content_type,),
)
async def schema(request: Request) -> Response:
    """Answer with the XML Schema, whatever `Accept` says. Raises `InvalidRequest`."""
    return constant(request, xsd.document(extensions_wanted(request)), Format.XML.content_type)


@router.get("/openapi.json")
@Operation("Get this document", login=Login.NONE, also_answer=("application/json",))
def openapi(request: Request) -> Response:
    """Answer with the OpenAPI document, whatever `Accept` says. To make it takes long, so this runs in a thread."""
    return constant(request, request.app.openapi(), "application/json")


@docs_router.get("/docs")
async def docs(request: Request) -> Response:
    return constant(request, _PAGE, "text/html; charset=utf-8", _HEADERS)


@docs_router.get("/docs/{name}")
async def asset(request: Request, name: str) -> Response:
    if name != _START_NAME and name not in _ASSETS:
        raise HTTPException(404)
    return constant(request, _content(name), mimetypes.guess_type(name)[0] or "application/octet-stream", _HEADERS)


@cache
def _content(name: str) -> bytes:
    return _START if name == _START_NAME else (swagger_ui_path / name).read_bytes()
