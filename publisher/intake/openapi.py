"""The API as an OpenAPI 3.1 document, made from the wire schema and the declarations of the routes.

It describes JSON exactly. XML mirrors it; the XML Schema at `/schema/uforge.xsd` adds what OpenAPI cannot express: the
order of the elements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from publisher.core.uris import ID_MAX
from publisher.intake import openapi_examples
from publisher.intake.caller import HANDLING, Login, Operation, Parameter, declaration
from publisher.intake.wire.schema import NAMESPACE, REQUEST_ONLY, TYPES, XSI, concrete_type
from publisher.intake.wire.writing import write_in_each_format
from publisher.platforms.platform import (
    CRED_ACCOUNT,
    PUBLISH_IMAGE,
    TYPE_KEY,
    Document,
    Field,
    Kind,
    ObjectType,
    known_platforms,
)
from publisher.version import __version__
from publisher.web import API, APPLIED, STRICT, Route

Json = dict[str, Any]


_DESCRIPTION = f"""\
Publishes machine images to clouds. A publish request creates a ticket; poll its status until the image is published.

Requests and answers are XML (`application/xml`, the default) or JSON (`application/json`), selected by `Content-Type`
and `Accept`. In XML only the root element is in a namespace, `{NAMESPACE}`; `xsi:type`, whose value has a prefix of
that namespace, is `"@type"` in JSON. In a request the order of the elements does not matter, and `null` means that an
element is left out. Unknown elements are ignored, and JSON answers name them in `warnings`. With the header
`Prefer: handling=strict`, they are an error (400).

Every `GET` also works as `HEAD`, which returns the same headers and no body. Compressed request bodies are refused
(415).

Users act on their own `uid`, administrators on any. Objects of other users are not found (404).
"""
_SIGNING = (
    "The public key of an API key, for a signed request. The text to sign is the request target below `/api/`, exactly"
    " as it is sent, with the query and this parameter. The last parameter must be `signature`."
)
_SIGNATURE = "Base64(HMAC-SHA1(secret key, text)), form-URL-encoded; the last parameter of the query."

_PLAIN: dict[Kind, Json] = {
    Kind.STRING: {"type": "string"},
    Kind.URI: {"type": "string", "description": "Relative to the base path if it names an object of this API."},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.INTEGER: {"type": "integer", "format": "int32"},
    Kind.LONG: {"type": "integer", "format": "int64"},
    Kind.DATE_TIME: {"type": "string", "format": "date-time"},
}
_ALWAYS = {
    "status": ("bytesLoaded", "bytesTotal", "cancelled", "complete", "error", "message", "percentage", "published"),
    "serviceStatus": ("alive", "version"),
    "localizedErrorMsg": ("message", "messageId"),
    "uforgeError": ("localizedErrorMsg", "requestMethod", "requestUri", "statusCode", "timestamp"),
}
"""Elements that an answer always has, in addition to those that the wire schema requires: callers may rely on them."""

_ENUMERATIONS = {("targetPlatform", "type"): [platform.name for platform in known_platforms()]}
_PATH_PARAMETERS = {
    "uid": ("The login of the user.", "root"),
    "aid": ("The number of the appliance.", 4),
    "itid": ("The number of the image.", 7),
    "pitid": ("The number of the published image.", 1),
    "caid": ("The number of the cloud account.", 3),
    "id": ("The number of the API key.", 2),
    "fileName": ("The name of the file.", "nginx.qcow2"),
    "platform": ("The name of the platform.", "openstack"),
    "format": ("The name of the format.", "openstackqcow2"),
}
_TAGS = {
    "pimages": "Published images",
    "images": "Images",
    "accounts": "Cloud accounts",
    "apikeys": "API keys",
    "target": "Targets",
    "appliances": "Appliances",
    "webhook": "Webhooks",
    "users": "Users",
}
_HEADERS: dict[str, Json] = {
    "ETag": {"description": "Changes whenever the answer changes.", "schema": {"type": "string"}, "required": True},
    "Last-Modified": {"description": "An HTTP date.", "schema": {"type": "string"}, "required": True},
    "Location": {
        "description": "The absolute URL of the new object.",
        "schema": {"type": "string", "format": "uri"},
        "required": True,
    },
    APPLIED: {
        "description": f"`{STRICT}`, if the request prefers this and nothing in it was ignored.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"schema": {"type": "string"}, "required": True},
    "Retry-After": {"description": "In seconds.", "schema": {"type": "string"}, "required": True},
}
_CONDITIONS = {
    "If-None-Match": "The ETag of the answer that the caller has.",
    "If-Modified-Since": "The Last-Modified of the answer that the caller has. Ignored if there is an If-None-Match.",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A method on a path, which is below the base path and written as in the document."""

    method: str
    path: str
    operation: Operation

    @property
    def cacheable(self) -> bool:
        """Whether the answer has ETag and Last-Modified, and may be 304."""
        return self.method == "GET"

    @property
    def errors(self) -> tuple[int, ...]:
        """The statuses from 400 up that the route may answer. (405 belongs to the path's other methods.)"""
        declared = self.operation
        login = declared.login is not Login.NONE
        possible = {
            400: bool(declared.body or declared.also_body or declared.parameters),
            401: login,
            403: bool(declared.entitlement),
            404: login and declared.not_found,
            406: login or bool(declared.body or declared.answer),
            408: bool(declared.also_body),
            409: bool(declared.conflict),
            413: bool(declared.body or declared.also_body),
            415: bool(declared.body),
            416: "application/octet-stream" in declared.also_answer,
            429: login,
            503: login,
        }
        return tuple(status for status, it_may in possible.items() if it_may)


def resources(routes: Sequence[Route]) -> list[Resource]:
    """Return the API's resources among an app's routes, in the order of the routes.

    Raises LookupError if a route of the API has no declaration.
    """
    return [
        Resource(method, _path(route.path), declaration(route.endpoint))
        for route in routes
        if route.path.startswith(f"{API}/")
        for method in route.methods
    ]


def _path(path: str) -> str:
    """Return a route's path as the document has it: `{file_name}` and `{itid:id}` become `{fileName}` and `{itid}`."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda match: f"{{{_camel_case(match[1])}}}", path.removeprefix(API))


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.title() for each in others)


def document(routes: Sequence[Route], base_url: str = API) -> Json:
    """Return the document of the API that an app's routes make up. `base_url` is the URL of the base path."""
    present = resources(routes)
    paths: Json = {}
    for resource in present:
        paths.setdefault(resource.path, {})[resource.method.lower()] = _operation(resource)
    errors = sorted({status for resource in present for status in resource.errors})
    answers = {each.operation.answer for each in present if each.operation.answer} | {"uforgeError"}
    bodies = {each.operation.body for each in present if each.operation.body}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Image publisher",
            "version": __version__,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(_tag(each.path) for each in present)],
        "paths": paths,
        "components": {
            "schemas": _schemas(answers, bodies),
            "responses": {f"Error{status}": _problem(status) for status in errors},
            "headers": _HEADERS,
            "parameters": {
                name: {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
                for name, text in _CONDITIONS.items()
            },
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "apiKey": {"type": "apiKey", "in": "query", "name": "apiKey", "description": _SIGNING},
                "signature": {"type": "apiKey", "in": "query", "name": "signature", "description": _SIGNATURE},
            },
        },
    }


# Operations ---------------------------------------------------------------------------------------------------------


def _operation(resource: Resource) -> Json:
    declared = resource.operation
    needs = f"Needs {declared.login.value}"
    if declared.entitlement:
        needs += f" and the entitlement `{declared.entitlement}`"
    description = f"{needs}."
    if declared.conflict:
        description += f" 409 if {declared.conflict}."
    made: Json = {
        "tags": [_tag(resource.path)],
        "summary": declared.summary,
        "description": description,
        "operationId": re.sub(r"\W+", "_", f"{resource.method.lower()}{resource.path}").strip("_"),
        "parameters": [_path_parameter(name) for name in re.findall(r"\{(\w+)", resource.path)]
        + [_parameter(each) for each in (*declared.parameters, *([HANDLING] if declared.body else []))]
        + ([{"$ref": f"#/components/parameters/{name}"} for name in _CONDITIONS] if resource.cacheable else []),
        "responses": _responses(resource),
        "security": _security(declared.login),
    }
    if declared.body:
        content = _content(declared.body, openapi_examples.REQUESTS[declared.body], request=True)
        content |= {media_type: _binary() for media_type in declared.also_body}
        made["requestBody"] = {"required": not declared.body_optional, "content": content}
    return made


def _security(login: Login) -> list[Json]:
    ways: list[Json] = [{"basic": []}, {"apiKey": [], "signature": []}]
    return {
        Login.NONE: [],
        Login.REQUIRED: ways,
        Login.OR_KEY: [*ways, {}],
        Login.SIGNED_OR_NONE: [{}, ways[1]],
    }[login]


def _tag(path: str) -> str:
    return next((tag for word, tag in _TAGS.items() if word in path), "The service")


def _path_parameter(name: str) -> Json:
    description, example = _PATH_PARAMETERS[name]
    schema: Json = (
        {"type": "string", "minLength": 1}
        if isinstance(example, str)
        else {"type": "integer", "format": "int64", "minimum": 1, "maximum": ID_MAX}
    )
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _responses(resource: Resource) -> Json:
    declared = resource.operation
    answered: Json = {"description": HTTPStatus(declared.status).phrase}
    headers = ["ETag", "Last-Modified"] if resource.cacheable and resource.path != "/status" else []
    headers += ["Location"] if declared.status == 201 else []
    headers += [APPLIED] if declared.body else []
    if headers:
        answered["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    content: Json = {}
    if declared.answer:
        content = _content(declared.answer, openapi_examples.ANSWERS[declared.answer], request=False)
    content |= {media_type: _other(media_type) for media_type in declared.also_answer}
    if content:
        answered["content"] = content
    responses: Json = {str(declared.status): answered}
    if "application/octet-stream" in declared.also_answer:
        responses["206"] = answered | {"description": "The requested range"}
    if resource.cacheable:
        responses["304"] = {"description": "The caller has this answer"}
    for status in resource.errors:
        responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    return responses


def _other(media_type: str) -> Json:
    if media_type == "text/plain":
        return {"schema": {"type": "string"}, "example": "alive\n"}
    if media_type == "application/json":
        return {"schema": {"type": "object"}}
    return _binary() if media_type == "application/octet-stream" else {}


def _binary() -> Json:
    return {}


def _problem(status: int) -> Json:
    made: Json = {
        "description": HTTPStatus(status).phrase,
        "content": _content("uforgeError", openapi_examples.problem(status), request=False),
    }
    header = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if header:
        made["headers"] = {header: {"$ref": f"#/components/headers/{header}"}}
    return made


def _content(root: str, example: Document, *, request: bool) -> Json:
    written = write_in_each_format(root, example, request=request)
    reference = _reference(root, request=request)
    return {
        "application/xml": {
            # The element is in the namespace only as the root of a document.
            "schema": reference | {"xml": {"name": root, "namespace": NAMESPACE, "prefix": "ns0"}},
            "example": written["application/xml"],
        },
        "application/json": {"schema": reference, "example": json.loads(written["application/json"])},
    }


# Schemas ------------------------------------------------------------------------------------------------------------


def _schemas(answers: set[str], bodies: set[str]) -> Json:
    """Return the schemas of these roots and of everything inside them."""
    made: Json = {}
    for roots, request in ((answers, False), (bodies, True)):
        waiting = sorted(roots)
        while waiting:
            name = waiting.pop()
            key = _component(name, request=request)
            if key not in made:
                made[key], inner = _type_schema(TYPES[name], request=request)
                waiting += inner
    return dict(sorted(made.items()))


def _component(name: str, *, request: bool) -> str:
    return f"{name}Request" if request else name


def _reference(name: str, *, request: bool) -> Json:
    return {"$ref": f"#/components/schemas/{_component(name, request=request)}"}


def _type_schema(object_type: ObjectType, *, request: bool) -> tuple[Json, list[str]]:
    """Return the schema of a type, and the names of the types inside it."""
    if object_type.abstract and not object_type.platform:
        return _abstract_schema(object_type.abstract, request=request)
    fields = [field for field in object_type.fields if request or not (field.secret or field.name in REQUEST_ONLY)]
    properties: Json = {}
    required = [field.name for field in fields if field.required and not request]
    if object_type.platform:
        properties[TYPE_KEY] = {
            "const": object_type.name,
            "xml": {"name": "type", "attribute": True, "namespace": XSI, "prefix": "xsi"},
        }
        required += [] if request else [TYPE_KEY]
    inner: list[str] = []
    for field in fields:
        properties[field.name] = _field_schema(field, object_type, inner, request=request)
    if request:
        required += [CRED_ACCOUNT] if object_type.abstract == PUBLISH_IMAGE else []
    else:
        required += [name for name in _ALWAYS.get(object_type.name, ()) if name not in required]
    made: Json = {"type": "object", "properties": properties}
    if required:
        made["required"] = required
    if not request:
        made["additionalProperties"] = False
    return made, inner


def _abstract_schema(abstract: str, *, request: bool) -> tuple[Json, list[str]]:
    names = [concrete_type(abstract, platform) for platform in known_platforms()]
    references = [_reference(name, request=request) for name in names]
    if request:
        # Without "@type" the platform decides, so more than one of them may match.
        return {"anyOf": references, "description": f"`{TYPE_KEY}` or the platform decides the type."}, names
    mapping = {name: reference["$ref"] for name, reference in zip(names, references, strict=True)}
    return {"oneOf": references, "discriminator": {"propertyName": TYPE_KEY, "mapping": mapping}}, names


def _field_schema(field: Field, owner: ObjectType, inner: list[str], *, request: bool) -> Json:
    if field.item is not None:
        items = _field_schema(field.item, owner, inner, request=request)
        wrapper: Json = {"type": "object", "properties": {field.item.name: {"type": "array", "items": items}}}
        return wrapper if request else wrapper | {"required": [field.item.name], "additionalProperties": False}
    if field.kind in (Kind.OBJECT, Kind.POLYMORPHIC):
        name = field.type
        if name == CRED_ACCOUNT and owner.platform:
            # A published image and its account have the same platform.
            name = next(each for each in known_platforms() if each.name == owner.platform).cred_account_type
        inner.append(name)
        return _reference(name, request=request)
    made = dict(_PLAIN[field.kind])
    if field.kind in (Kind.INTEGER, Kind.LONG):
        made["minimum"], made["maximum"] = field.bounds
    if request and field.kind in (Kind.STRING, Kind.URI):
        made["maxLength"] = field.limit
    if not request and (allowed := _ENUMERATIONS.get((owner.name, field.name))):
        made["enum"] = allowed
    if field.secret:
        made["writeOnly"] = True
    return made
