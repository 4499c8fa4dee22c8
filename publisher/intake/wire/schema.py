"""The UForge document types, as data: the elements of each, their order, and what they contain.

Reading and writing use only this table, so an element is added here, once. The order is that of the answers, which
existing clients check; in requests it does not matter. Elements of the API that this service does not use are not
listed. In a request they are ignored; `unknown_elements.py` says which of them are not reported as unknown.
"""

from __future__ import annotations

from functools import cache

from publisher.platforms.platform import (
    CERTIFICATE_LIMIT,
    CRED_ACCOUNT,
    LIFETIME,
    PROPERTY,
    PUBLISH_IMAGE,
    TYPE_KEY,
    Document,
    Field,
    Kind,
    ObjectType,
    Platform,
    a_list,
    an_object,
    booleans,
    date_times,
    integers,
    json_only,
    known_platforms,
    longs,
    polymorphic,
    strings,
    uris,
)

NAMESPACE = "http://www.usharesoft.com/uforge"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

# What the larger types extend ---------------------------------------------------------------------------------------

_OBJECT = (*date_times("created"), *longs("dbId"), *strings("digest"), *date_times("lastModified"))

_UPLOAD_OBJECT = (
    *_OBJECT,
    *strings("md5sum", "mimeType", "sha256sum"),
    *longs("size"),
    *an_object("status"),
    *booleans("uploaded"),
    *date_times("uploadedTime"),
)

_IMAGE = (
    *_UPLOAD_OBJECT,
    *uris("parentUri", "basePublishImagesUri"),
    *longs("completeInstalledSize", "completeSize"),
    *booleans("compress"),
    *polymorphic(CRED_ACCOUNT),
    *strings("distributionName", "downloadKey"),
    *uris("downloadUri"),
    *booleans("ebs"),
    *integers("ebsVolumeSize"),
    *strings("fileExtension", "fileName"),
    *longs("fileSize"),
    *an_object("format", "imageFormat"),
    *an_object("targetFormat"),
    *strings("fullName"),
    *booleans("imageCreated"),
    *an_object("installProfile"),
    *strings("name"),
    *uris("orgUri", "pkgsUri"),
    *booleans("publicAccess", "registeredCredAccount"),
    *integers("revision"),
    *booleans("simulated"),
    *uris("statusUri"),
    *strings("tag"),
    *booleans("updateTools"),
    *uris("uri"),
    *strings("version"),
    *longs("vmDiskSize"),
    *integers("vmMemorySize"),
    *booleans("forceCheckingDeps"),
    *strings("entrypoint", "registeringName"),
)

_PUBLISH_IMAGE = (
    *_IMAGE,
    *strings("cloudId"),
    *uris("imageUri"),
    *a_list("instances", an_object("instance")),
    *uris("instancesUri"),
    *strings("publishLocation"),
    *LIFETIME,
)

_CRED_ACCOUNT = (
    *_OBJECT,
    *strings("name"),
    *uris("parentUri", "uri"),
    *an_object("targetPlatform"),
    *booleans("secretsMissing"),
)

REQUEST_ONLY = frozenset({"applianceUri", "caBundle", "location", "notify"})
"""Elements that are read and never written.

`applianceUri` is the manual's name for `parentUri` of a published image. The others are our own: the CA bundle of a
cloud, the URL to fetch an image from, and the URL of a webhook. These URLs may contain a secret.
"""

JSON_ONLY_TYPES = frozenset({"property"})
"""The types of objects that only elements contain which XML answers leave out (`json_only`)."""

_ASKED = uris("applianceUri", "notify")
_WARNINGS = json_only(a_list("warnings", strings("warning")))
"""What was ignored in the body of the request. Every answer to a request with a document has it."""

# The types ----------------------------------------------------------------------------------------------------------

_PLAIN = {
    "status": (
        *_OBJECT,
        *longs("bytesLoaded", "bytesTotal"),
        *booleans("cancelled", "complete", "detailedError"),
        *strings("detailedErrorMsg"),
        *booleans("error"),
        *strings("errorMessage"),
        *date_times("eta"),
        *strings("message"),
        *uris("parentUri"),
        *integers("percentage", minimum=0, maximum=100),
        *booleans("published"),
        *date_times("totalTime"),
        *uris("uri"),
        *json_only((*strings("phase"), *integers("attempt", minimum=0), *strings("reasonCode"))),
        *json_only((Field("rate", Kind.LONG, minimum=0), *strings("worker"))),
        *_WARNINGS,
    ),
    "image": (*_IMAGE, *uris("location"), *json_only(strings("warning")), *_WARNINGS),
    "imageFormat": (*_OBJECT, *strings("name")),
    "installProfile": _OBJECT,
    "instance": (*_OBJECT, *strings("hostname", "instanceId", "name"), *uris("parentUri", "uri")),
    "certificate": (
        *_UPLOAD_OBJECT,
        Field("content", secret=True, limit=CERTIFICATE_LIMIT),
        *strings("name"),
        *uris("parentUri"),
        *strings("type"),
        *uris("uri"),
    ),
    "targetPlatform": (*_OBJECT, *strings("name", "type"), *booleans("access", "active"), *uris("uri")),
    "targetFormat": (
        *_OBJECT,
        *strings("name"),
        *an_object("format", "imageFormat"),
        *strings("type", "credAccountType"),
        *booleans("access", "active"),
        *uris("uri"),
    ),
    "serviceStatus": (*_OBJECT, *booleans("alive"), *strings("version"), *integers("serviceLoad")),
    "appliance": (
        *_OBJECT,
        *strings("archName"),
        *uris("baseImagesStatusUri", "baseImagesUri", "basePublishImagesStatusUri", "basePublishImagesUri"),
        *strings("description", "distributionName"),
        *a_list("imageUris", uris("uri")),
        *strings("name"),
        *uris("orgUri"),
        *a_list("publishImageUris", uris("uri")),
        *integers("revision"),
        *longs("size"),
        *strings("tag"),
        *uris("uri"),
        *strings("version"),
    ),
    "entitlement": (*_OBJECT, *strings("description", "name")),
    "role": (
        *_OBJECT,
        *strings("name", "description"),
        *a_list("entitlements", an_object("entitlement"), required=True),
    ),
    "user": (
        *_OBJECT,
        *strings("loginName"),
        *booleans("active"),
        *strings("email", "firstName", "surname"),
        *booleans("admin"),
        *uris("baseApiKeysUri", "baseAppliancesUri", "baseCredAccountsUri", "baseTargetPlatformsUri"),
        *uris("baseTargetFormatsUri", "baseImagesUri", "basePublishImagesUri", "baseRolesUri"),
        *strings("name"),
        *a_list("roles", an_object("role"), required=True),
        *uris("uri"),
    ),
    # The secret key is not marked as a secret: the answer that creates the pair shows it, once.
    "apiKeyPair": (*_OBJECT, *strings("name", "description", "publicKey", "secretKey"), *uris("uri"), *_WARNINGS),
    "property": PROPERTY,
    # Our own, not the API's. As with an API key, its secret is shown once.
    "webhook": (*_OBJECT, *uris("url"), *strings("secret"), *uris("uri"), *_WARNINGS),
    # Our own, too: what a test of an account found.
    "accountTest": (
        *booleans("ok"),
        *strings("message", "reasonCode"),
        *a_list("projects", an_object("project", "cloudPlace")),
        *a_list("regions", an_object("region", "cloudPlace")),
        *a_list("networks", an_object("network", "cloudPlace")),
        *uris("parentUri"),
    ),
    "cloudPlace": strings("id", "name"),
    "localizedErrorMsg": (*strings("message", "messageId"), *a_list("parameters", strings("parameter"))),
    "uforgeError": (
        *an_object("localizedErrorMsg"),
        *strings("requestMethod"),
        *uris("requestUri"),
        *integers("statusCode"),
        *date_times("timestamp"),
    ),
}

_LISTS = {
    "publishImages": polymorphic(PUBLISH_IMAGE),
    "statuses": an_object("status"),
    "images": an_object("image"),
    "credAccounts": polymorphic(CRED_ACCOUNT),
    "apiKeyPairs": an_object("apiKeyPair"),
    "targetPlatforms": an_object("targetPlatform"),
    "targetFormats": an_object("targetFormat"),
    "appliances": an_object("appliance"),
    "roles": an_object("role"),
}


def _list_type(wrapper: str, item: tuple[Field, ...]) -> ObjectType:
    total = Field("total", Kind.LONG, required=True, minimum=0)
    return ObjectType(wrapper, (total, *a_list(wrapper, item, required=True)))


def _every_type() -> dict[str, ObjectType]:
    types = [ObjectType(name, fields) for name, fields in _PLAIN.items()]
    types += [_list_type(wrapper, item) for wrapper, item in _LISTS.items()]
    # The abstract types themselves, for an object without a type: the elements that all their concrete types share.
    types.append(ObjectType(PUBLISH_IMAGE, (*_PUBLISH_IMAGE, *_ASKED, *_WARNINGS), abstract=PUBLISH_IMAGE))
    types.append(ObjectType(CRED_ACCOUNT, (*_CRED_ACCOUNT, *_WARNINGS), abstract=CRED_ACCOUNT))
    for platform in known_platforms():
        image_fields = (*_PUBLISH_IMAGE, *platform.all_target_fields, *_ASKED, *_WARNINGS)
        types.append(ObjectType(platform.publish_image_type, image_fields, PUBLISH_IMAGE, platform.name))
        account_fields = (*_CRED_ACCOUNT, *platform.all_account_fields, *_WARNINGS)
        types.append(ObjectType(platform.cred_account_type, account_fields, CRED_ACCOUNT, platform.name))
    return {object_type.name: object_type for object_type in types}


TYPES = _every_type()
"""Every object type, by name."""

_PLATFORMS = {platform.name: platform for platform in known_platforms()}
_INNER = {
    *("imageFormat", "installProfile", "instance", "certificate", "entitlement", "localizedErrorMsg"),
    *("property", "cloudPlace"),
}
ROOTS = (frozenset(_PLAIN) - _INNER) | frozenset(_LISTS) | {PUBLISH_IMAGE, CRED_ACCOUNT}
"""The names that the root of a document may have."""


@cache
def root_field(root: str) -> Field:
    """Return the element that is the root of such a document. Raises ValueError for a name that is not in ROOTS."""
    if root not in ROOTS:
        raise ValueError(f"{root!r} is no root of a UForge document")
    kind = Kind.POLYMORPHIC if TYPES[root].abstract else Kind.OBJECT
    return Field(root, kind, root)


def concrete_type(abstract: str, platform: Platform | None) -> str:
    """Return the name of the concrete type for that platform; without a platform, that of the abstract type."""
    if platform is None:
        return abstract
    return platform.publish_image_type if abstract == PUBLISH_IMAGE else platform.cred_account_type


def document_platform(document: Document) -> Platform | None:
    """Return the platform of a published image or an account that was read; None if nothing declared it."""
    type_name = document.get(TYPE_KEY)
    return _PLATFORMS[TYPES[str(type_name)].platform] if type_name else None
