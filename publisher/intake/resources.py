"""The resources of the API, as a table: what the OpenAPI document tells of each beside its wire documents.

The routes themselves decide nothing by it. Tests hold the two together: every route has a row, and answers as it says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from publisher.platforms.platform import CRED_ACCOUNT, PUBLISH_IMAGE

ID_MAX = (1 << 63) - 1


class Login(Enum):
    """What a resource asks of its caller."""

    NONE = "nothing"
    REQUIRED = "a login"
    OR_KEY = "a login, or a one-time key"
    SIGNED_OR_NONE = "no login, but where there is an API key, a right signature"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or a header where `place` says so."""

    name: str
    description: str
    schema: dict[str, Any]
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Resource:
    """One method on one path.

    path: below the base path, as the route has it.
    entitlement: what the caller must be entitled to, "" where any login will do.
    body, answer: the root elements of the request and of its answer, "" for none.
    also_body, also_answer: media types beside the two of every document, or in their place where there is no root.
    conflict: why it may be answered 409, "" where it never is.
    not_found: it, or what it is of, may be missing.
    """

    method: str
    path: str
    summary: str
    entitlement: str = ""
    body: str = ""
    answer: str = ""
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    conflict: str = ""
    login: Login = Login.REQUIRED
    also_body: tuple[str, ...] = ()
    also_answer: tuple[str, ...] = ()
    not_found: bool = True

    @property
    def cacheable(self) -> bool:
        """Its answer carries ETag and Last-Modified, and may be 304."""
        return self.method == "GET"

    @property
    def errors(self) -> tuple[int, ...]:
        """The statuses from 400 up that it may answer. (405 is of a path's other methods.)"""
        has_document = bool(self.body or self.answer)
        possible = {
            400: bool(self.body or self.also_body or self.parameters),
            401: self.login is not Login.NONE,
            403: bool(self.entitlement),
            404: self.login is not Login.NONE and self.not_found,
            429: self.login is not Login.NONE,
            408: bool(self.also_body),
            406: self.login is not Login.NONE or has_document,
            409: bool(self.conflict),
            413: bool(self.body or self.also_body),
            415: bool(self.body),
            416: "application/octet-stream" in self.also_answer,
            503: self.login is not Login.NONE,
        }
        return tuple(sorted(status for status, it_may in possible.items() if it_may))

    @property
    def key(self) -> tuple[str, str]:
        """The method, and the path whatever its parameters are called."""
        return self.method, _shape(self.path)


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def routed(routes: Sequence[BaseRoute]) -> set[tuple[str, str]]:
    """The keys of what an app has routes for, whose paths are whole here."""
    return {
        (method, _shape(route.path))
        for route in iter_route_contexts(routes)
        if route.path is not None
        for method in route.methods or ()
        if method != "HEAD"
    }


# Parameters ---------------------------------------------------------------------------------------------------------

_IMG = Parameter("img", "Only those of one image: its URI, or its number.", {"type": "string"})
_WAIT = Parameter(
    "wait",
    "Seconds to hold the answer until the status is another than that of `If-None-Match`, or than at first.",
    {"type": "number", "minimum": 0, "maximum": 60},
)
_ONCE = Parameter(
    "Idempotency-Key",
    "The same request sent again with the same key makes nothing new, and has the first one's answer.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "header",
)
_LISTING = (
    Parameter("query", "FIQL, such as `name=='*nginx*'`: only those that match.", {"type": "string"}),
    Parameter("orderBy", "The element to order by.", {"type": "string"}),
    Parameter("descending", "The greatest first.", {"type": "boolean"}),
    Parameter("count", "So many at most; `total` counts all matches.", {"type": "integer", "minimum": 1}),
    Parameter("offset", "So many of the matches are left out first.", {"type": "integer", "minimum": 0}),
)
_EXTENSIONS = Parameter(
    "extensions",
    "Name platforms and formats that the API does not know in XML, too. In JSON they are always named.",
    {"type": "boolean"},
)
_DOWNLOAD_KEY = Parameter("downloadId", "A download key, which works once.", {"type": "string"})
_BINARY = ("application/octet-stream",)

# Paths --------------------------------------------------------------------------------------------------------------

_USER = "/users/{uid}"
_WEBHOOK = _USER + "/webhook"
_APPLIANCES = _USER + "/appliances"
_APPLIANCE = _APPLIANCES + "/{aid}"
_IMAGES = _APPLIANCE + "/images"
_IMAGE = _IMAGES + "/{itid}"
_FLAT = _APPLIANCE + "/pimages"
_PUBLISHED = _IMAGE + "/pimages/{pitid}"
_ACCOUNTS = _USER + "/accounts"
_ACCOUNT = _ACCOUNTS + "/{caid}"
_KEYS = _USER + "/apikeys"
_PLATFORMS = _USER + "/targetplatforms"
_FORMATS = _USER + "/targetformats"

_CREATE, _PUBLISH, _GENERATE = "appliance_create", "image_publish", "image_generate"
_NOT_READY = "the image is not there yet"
_IN_USE = "a publication that has not ended uses it"

RESOURCES: tuple[Resource, ...] = (
    Resource(
        "GET",
        "/status",
        "Whether the service is alive",
        answer="serviceStatus",
        login=Login.SIGNED_OR_NONE,
        not_found=False,
        also_answer=("text/plain",),
    ),
    Resource(
        "GET",
        "/schema/uforge.xsd",
        "The XML Schema of the documents",
        login=Login.NONE,
        parameters=(_EXTENSIONS,),
        also_answer=("application/xml",),
    ),
    Resource("GET", "/openapi.json", "This document", login=Login.NONE, also_answer=("application/json",)),
    # Published images
    Resource(
        "POST",
        _FLAT,
        "Publish the image that the body names",
        _PUBLISH,
        body=PUBLISH_IMAGE,
        answer=PUBLISH_IMAGE,
        status=201,
        parameters=(_ONCE,),
        conflict=_NOT_READY,
    ),
    Resource(
        "POST",
        _IMAGE + "/pimages",
        "Publish an image",
        _PUBLISH,
        body=PUBLISH_IMAGE,
        answer=PUBLISH_IMAGE,
        status=201,
        parameters=(_ONCE,),
        conflict=_NOT_READY,
    ),
    Resource(
        "GET",
        _IMAGE + "/pimages",
        "The published images of an image",
        _CREATE,
        answer="publishImages",
        parameters=(_EXTENSIONS,),
    ),
    Resource(
        "GET",
        _FLAT,
        "The published images of an appliance",
        _CREATE,
        answer="publishImages",
        parameters=(_EXTENSIONS,),
    ),
    Resource(
        "GET",
        _FLAT + "/statuses",
        "How those of an appliance stand",
        _CREATE,
        answer="statuses",
        parameters=(_EXTENSIONS,),
    ),
    Resource("GET", _PUBLISHED, "A published image", answer=PUBLISH_IMAGE, parameters=(_EXTENSIONS,)),
    Resource("GET", _PUBLISHED + "/status", "How a publication stands", _PUBLISH, answer="status", parameters=(_WAIT,)),
    Resource(
        "GET",
        _PUBLISHED + "/accounts/{caid}",
        "The account of a published image, as it was when the ticket was made",
        answer=CRED_ACCOUNT,
        parameters=(_EXTENSIONS,),
    ),
    Resource("DELETE", _PUBLISHED + "/cancel", "Cancel a publication", _PUBLISH, status=204, conflict="it has ended"),
    Resource(
        "POST",
        _PUBLISHED + "/retry",
        "Try a publication again",
        _PUBLISH,
        answer=PUBLISH_IMAGE,
        status=201,
        parameters=(_EXTENSIONS,),
        conflict="it has neither failed nor was it cancelled",
    ),
    Resource("DELETE", _PUBLISHED, "Forget a published image", _PUBLISH, status=204, conflict="it has not ended"),
    Resource(
        "DELETE",
        _FLAT,
        "Forget all published images of an appliance",
        _CREATE,
        status=204,
        conflict="one of them has not ended, and none is forgotten",
    ),
    Resource(
        "GET",
        _FLAT + "/{pitid}/downloads",
        "The file of a published image",
        parameters=(_DOWNLOAD_KEY, Parameter("id", "The same.", {"type": "string"})),
        conflict=_NOT_READY,
        login=Login.OR_KEY,
        also_answer=_BINARY,
    ),
    Resource(
        "GET",
        _USER + "/pimages",
        "The published images of a user",
        _GENERATE,
        answer="publishImages",
        parameters=(_IMG, _EXTENSIONS),
    ),
    Resource(
        "GET",
        _USER + "/pimages/status",
        "How those of a user stand",
        _GENERATE,
        answer="statuses",
        parameters=(_IMG, _EXTENSIONS),
    ),
    # Images
    Resource("GET", _IMAGES, "The images of an appliance", _CREATE, answer="images", parameters=_LISTING),
    Resource("GET", _USER + "/images", "The images of a user", _GENERATE, answer="images", parameters=(_IMG,)),
    Resource(
        "POST",
        _IMAGES,
        "Register an image: from a location, or with its bytes",
        _GENERATE,
        body="image",
        answer="image",
        status=201,
        parameters=(
            Parameter("name", "Its name, where the body is its bytes.", {"type": "string"}),
            Parameter("fileName", "What its file is called, where the body is its bytes.", {"type": "string"}),
            Parameter("format", "Its format, where the body is its bytes.", {"type": "string"}),
            Parameter("md5sum", "Its MD5, to be compared, where the body is its bytes.", {"type": "string"}),
            Parameter("sha256sum", "Likewise its SHA-256.", {"type": "string"}),
        ),
        also_body=_BINARY,
    ),
    Resource(
        "POST",
        _IMAGE,
        "Fetch an image again from where it came",
        _GENERATE,
        answer="image",
        status=201,
        conflict="it came from no location, or is in use",
    ),
    Resource("GET", _IMAGE, "An image", _CREATE, answer="image"),
    Resource("GET", _IMAGE + "/status", "How the registration of an image stands", _CREATE, answer="status"),
    Resource("GET", _IMAGES + "/statuses", "How those of an appliance stand", _CREATE, answer="statuses"),
    Resource("DELETE", _IMAGE, "Delete an image", _CREATE, status=204, conflict=_IN_USE),
    Resource(
        "DELETE",
        _IMAGES,
        "Delete all images of an appliance",
        _CREATE,
        status=204,
        conflict="a publication that has not ended uses one of them, and none is deleted",
    ),
    Resource(
        "DELETE",
        _IMAGE + "/status",
        "Cancel the registration of an image",
        _GENERATE,
        status=204,
        conflict="it has ended",
    ),
    *(
        Resource(
            "GET",
            _IMAGE + "/downloads" + file_name,
            "The file of an image" + named,
            parameters=(_DOWNLOAD_KEY,),
            conflict=_NOT_READY,
            login=Login.OR_KEY,
            also_answer=_BINARY,
        )
        for file_name, named in (("", ""), ("/{fileName}", ", under its name"))
    ),
    # Appliances
    Resource(
        "GET",
        _APPLIANCES,
        "The appliances of a user",
        _CREATE,
        answer="appliances",
        parameters=(*_LISTING, _EXTENSIONS),
    ),
    Resource("GET", _APPLIANCE, "An appliance", _CREATE, answer="appliance", parameters=(_EXTENSIONS,)),
    # Accounts
    Resource(
        "GET",
        _ACCOUNTS,
        "The cloud accounts of a user",
        answer="credAccounts",
        parameters=(*_LISTING, _EXTENSIONS),
    ),
    Resource(
        "POST",
        _ACCOUNTS,
        "Store a cloud account",
        "cloud_account_create",
        body=CRED_ACCOUNT,
        answer=CRED_ACCOUNT,
        status=201,
        conflict="its name is taken",
    ),
    Resource("GET", _ACCOUNT, "A cloud account", answer=CRED_ACCOUNT, parameters=(_EXTENSIONS,)),
    Resource(
        "PUT",
        _ACCOUNT,
        "Change a cloud account: what is not given is kept",
        "cloud_account_create",
        body=CRED_ACCOUNT,
        answer=CRED_ACCOUNT,
        parameters=(_EXTENSIONS,),
        conflict="its name is taken",
    ),
    Resource("DELETE", _ACCOUNT, "Delete a cloud account", "cloud_account_delete", status=204),
    # API keys
    Resource("GET", _KEYS, "The API keys of a user, without their secrets", "api_key_access", answer="apiKeyPairs"),
    Resource(
        "POST",
        _KEYS,
        "Make an API key: its secret is in this answer and in no other",
        "api_key_access",
        body="apiKeyPair",
        answer="apiKeyPair",
        status=201,
    ),
    Resource("GET", _KEYS + "/{id}", "An API key, without its secret", "api_key_access", answer="apiKeyPair"),
    Resource("DELETE", _KEYS + "/{id}", "Delete an API key", "api_key_access", status=204),
    # What can be published to
    Resource(
        "GET",
        _PLATFORMS,
        "The platforms to publish to",
        _GENERATE,
        answer="targetPlatforms",
        parameters=(*_LISTING, _EXTENSIONS),
    ),
    Resource(
        "GET",
        _PLATFORMS + "/{platform}",
        "A platform to publish to",
        _GENERATE,
        answer="targetPlatform",
        parameters=(_EXTENSIONS,),
    ),
    Resource(
        "GET",
        _FORMATS,
        "The formats to publish in",
        _GENERATE,
        answer="targetFormats",
        parameters=(*_LISTING, _EXTENSIONS),
    ),
    Resource(
        "GET",
        _FORMATS + "/{platform}/{format}",
        "A format to publish in",
        _GENERATE,
        answer="targetFormat",
        parameters=(_EXTENSIONS,),
    ),
    # Users
    Resource("GET", _USER, "A user", answer="user"),
    Resource("GET", _USER + "/roles", "The roles of a user", answer="roles"),
    Resource("GET", _WEBHOOK, "Where a user is told of its publications", _PUBLISH, answer="webhook"),
    Resource(
        "PUT",
        _WEBHOOK,
        "Have a user told: where this makes the secret that is signed with, it is in this answer and in no other",
        _PUBLISH,
        body="webhook",
        answer="webhook",
    ),
    Resource("DELETE", _WEBHOOK, "Tell a user no more, and forget the secret", _PUBLISH, status=204),
)
