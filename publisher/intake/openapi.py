"""The API as an OpenAPI 3.1 document, made of the wire schema and of the table of resources.

JSON is described to the letter. XML mirrors it; the XML Schema at `/schema/uforge.xsd` says of it what OpenAPI cannot:
the order of the elements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.routing import BaseRoute

from publisher.intake import openapi_examples
from publisher.intake.resources import ID_MAX, RESOURCES, Login, Parameter, Resource, routed
from publisher.intake.wire import xml
from publisher.intake.wire.codec import write_document
from publisher.intake.wire.platform_resolution import concrete_type
from publisher.intake.wire.schema import NAMESPACE, REQUEST_ONLY, TYPES
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
from publisher.web.negotiation import Format
from publisher.web.request import API

Json = dict[str, Any]

_DESCRIPTION = f"""\
Publishes machine images to clouds: a request makes a ticket, which is polled until the image is there.

Documents are XML (`application/xml`, the default) or JSON (`application/json`), both ways, by `Accept` and
`Content-Type`. Of an XML document only the root element is in a namespace, `{NAMESPACE}`, and JSON's `"@type"` is its
`xsi:type`, with a prefix of that namespace. In a request the order of the elements does not matter, unknown elements
are ignored, and `null` is the same as leaving an element out.

Every `GET` can be asked as `HEAD`: the same headers, no body. Request bodies are not compressed (415).

A user acts on its own `uid`, an administrator on any; what belongs to others is not found.
"""
_SIGNING = (
    "The public half of an API key, for a signed request: the text to sign is the request target below `/api/` as it"
    " goes over the wire, query with this parameter included. Needs `signature`, which comes last."
)
_SIGNATURE = "Base64(HMAC-SHA1(secret key, text)), form-URL-encoded; the last parameter of the query."

_PLAIN: dict[Kind, Json] = {
    Kind.STRING: {"type": "string"},
    Kind.URI: {"type": "string", "description": "Relative to the base path, where it names an object of this API."},
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
"""What an answer always has beside what the wire schema itself requires: callers may count on it."""

_ENUMERATIONS = {("targetPlatform", "type"): [platform.name for platform in known_platforms()]}
_PATH_PARAMETERS = {
    "uid": ("The login of the user.", "root"),
    "aid": ("The appliance.", 4),
    "itid": ("The image.", 7),
    "pitid": ("The published image.", 1),
    "caid": ("The cloud account.", 3),
    "id": ("The object.", 2),
    "fileName": ("The name of the file.", "nginx.qcow2"),
    "platform": ("The name of the platform.", "openstack"),
    "format": ("The name of the format.", "openstackqcow2"),
}
_TAGS = {
    "pimages": "Published images",
    "images": "Images",
    "accounts": "Cloud accounts",
    "apikeys": "API keys",
    "target": "What can be published to",
    "appliances": "Appliances",
    "webhook": "Webhooks",
    "users": "Users",
}
_HEADERS: dict[str, Json] = {
    "ETag": {"description": "Changes whenever the answer does.", "schema": {"type": "string"}, "required": True},
    "Last-Modified": {"description": "An HTTP date.", "schema": {"type": "string"}, "required": True},
    "Location": {
        "description": "The absolute URL of what was made.",
        "schema": {"type": "string", "format": "uri"},
        "required": True,
    },
    "WWW-Authenticate": {"schema": {"type": "string"}, "required": True},
    "Retry-After": {"description": "In seconds.", "schema": {"type": "string"}, "required": True},
}
_CONDITIONS = {
    "If-None-Match": "The ETag of the answer that the caller has.",
    "If-Modified-Since": "The Last-Modified of the answer that the caller has; counts where there is no If-None-Match.",
}


def document(routes: Sequence[BaseRoute], base_url: str = API) -> Json:
    """What the API has by an app's routes. `base_url` is that of its base path."""
    present = routed(routes)
    resources = [each for each in RESOURCES if (each.method, API + each.key[1]) in present]
    paths: Json = {}
    for resource in resources:
        paths.setdefault(resource.path, {})[resource.method.lower()] = _operation(resource)
    errors = sorted({status for resource in resources for status in resource.errors})
    answers = {each.answer for each in resources if each.answer} | {"uforgeError"}
    bodies = {each.body for each in resources if each.body}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Image publisher",
            "version": __version__,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(_tag(each.path) for each in resources)],
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
    needs = f"Needs {resource.login.value}"
    if resource.entitlement:
        needs += f" and the entitlement `{resource.entitlement}`"
    description = f"{needs}."
    if resource.conflict:
        description += f" 409 where {resource.conflict}."
    made: Json = {
        "tags": [_tag(resource.path)],
        "summary": resource.summary,
        "description": description,
        "operationId": re.sub(r"\W+", "_", f"{resource.method.lower()}{resource.path}").strip("_"),
        "parameters": [_path_parameter(name) for name in re.findall(r"\{(\w+)", resource.path)]
        + [_parameter(each) for each in resource.parameters]
        + ([{"$ref": f"#/components/parameters/{name}"} for name in _CONDITIONS] if resource.cacheable else []),
        "responses": _responses(resource),
        "security": _security(resource.login),
    }
    if resource.body:
        content = _content(resource.body, openapi_examples.REQUESTS[resource.body], request=True)
        content |= {media_type: _binary() for media_type in resource.also_body}
        made["requestBody"] = {"required": True, "content": content}
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
    answered: Json = {"description": HTTPStatus(resource.status).phrase}
    headers = ["ETag", "Last-Modified"] if resource.cacheable and resource.path != "/status" else []
    headers += ["Location"] if resource.status == 201 else []
    if headers:
        answered["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    content: Json = {}
    if resource.answer:
        content = _content(resource.answer, openapi_examples.ANSWERS[resource.answer], request=False)
    content |= {media_type: _other(media_type) for media_type in resource.also_answer}
    if content:
        answered["content"] = content
    responses: Json = {str(resource.status): answered}
    if "application/octet-stream" in resource.also_answer:
        responses["206"] = answered | {"description": "The range that was asked for"}
    if resource.cacheable:
        responses["304"] = {"description": "The caller has it already"}
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
    written = {form: write_document(form, root, example, request=request).decode() for form in Format}
    reference = _reference(root, request=request)
    return {
        Format.XML.value: {
            # Only as the root of a document is the element in the namespace.
            "schema": reference | {"xml": {"name": root, "namespace": NAMESPACE, "prefix": "ns0"}},
            "example": written[Format.XML],
        },
        Format.JSON.value: {"schema": reference, "example": json.loads(written[Format.JSON])},
    }


# Schemas ------------------------------------------------------------------------------------------------------------


def _schemas(answers: set[str], bodies: set[str]) -> Json:
    """Those of these roots, and of all that is in them."""
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
    """The schema of a type, and the types that are in it."""
    if object_type.abstract and not object_type.platform:
        return _abstract_schema(object_type.abstract, request=request)
    fields = [field for field in object_type.fields if request or not (field.secret or field.name in REQUEST_ONLY)]
    properties: Json = {}
    required = [field.name for field in fields if field.required and not request]
    if object_type.platform:
        properties[TYPE_KEY] = {
            "const": object_type.name,
            "xml": {"name": "type", "attribute": True, "namespace": xml.XSI, "prefix": "xsi"},
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
        # Without "@type" the platform tells which it is, so that more than one of them may fit.
        return {"anyOf": references, "description": f"The type is told by `{TYPE_KEY}` or by the platform."}, names
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
            # A published image and its account are of the same platform.
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
