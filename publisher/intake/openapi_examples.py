"""The examples of the OpenAPI document: one realistic document for each root."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

from publisher.platforms.platform import TYPE_KEY, Document
from publisher.version import UFORGE_API_VERSION

_CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_CHANGED = datetime(2026, 1, 2, 3, 5, 6, tzinfo=UTC)
_USER = "users/root"
_APPLIANCE = f"{_USER}/appliances/4"
_IMAGE = f"{_APPLIANCE}/images/7"
_TICKET = f"{_IMAGE}/pimages/1"
_ACCOUNT = f"{_USER}/accounts/3"
_SIZE = 2048 << 20
_MIB_312 = 312 << 20


def _object(id: int | None) -> Document:
    return {"created": _CREATED, "dbId": id, "digest": "0f3a9c5be1d24c7f8a6b5d4e3f2a1b0c", "lastModified": _CHANGED}


def _list(wrapper: str, item: Document) -> Document:
    return {"total": 1, wrapper: [item]}


_STATUS: Document = {
    **_object(1),
    "bytesLoaded": _MIB_312,
    "bytesTotal": _SIZE,
    "cancelled": False,
    "complete": False,
    "detailedError": False,
    "error": False,
    "eta": datetime(2026, 1, 2, 3, 9, 0, tzinfo=UTC),
    "message": "Uploading 312 of 2048 MiB",
    "parentUri": _TICKET,
    "percentage": 15,
    "published": False,
    "uri": f"{_TICKET}/status",
    "phase": "uploading",
    "attempt": 1,
    "rate": 7 << 20,
    "worker": "publisher@worker-1",
}
_CRED_ACCOUNT: Document = {
    TYPE_KEY: "CredAccountOpenStack",
    **_object(3),
    "name": "production",
    "parentUri": _USER,
    "uri": _ACCOUNT,
    "targetPlatform": {"dbId": 101, "name": "openstack", "type": "openstack"},
    "secretsMissing": True,
    "keystoneUrl": "https://cloud.example.com:5000",
    "login": "demo",
    "keystoneVersion": "v3",
}
_TARGET: Document = {
    "keystoneDomain": "Default",
    "keystoneProject": "demo",
    "displayName": "My image",
    "publicImage": False,
}
_ATTRIBUTES: Document = {
    "properties": [{"name": "os_distro", "value": "debian"}],
    "tags": ["golden"],
    "minDisk": 20,
    "visibility": "private",
}
_FORMAT_NAME: Document = {"dbId": 315, "name": "openstackqcow2"}
_TARGET_FORMAT: Document = {"dbId": 101315, "name": "openstack", "format": _FORMAT_NAME, "type": "cloud"}
_FILE: Document = {
    "md5sum": "5" * 32,
    "sha256sum": "2" * 64,
    "fileSize": _SIZE,
    "format": _FORMAT_NAME,
    "targetFormat": _TARGET_FORMAT,
    "name": "nginx",
}
_PUBLISH_IMAGE: Document = {
    TYPE_KEY: "PublishImageOpenStack",
    **_object(1),
    **_FILE,
    **_TARGET,
    **_ATTRIBUTES,
    "size": _SIZE,
    "status": _STATUS,
    "uploaded": False,
    "parentUri": _APPLIANCE,
    "credAccount": _CRED_ACCOUNT,
    "statusUri": f"{_TICKET}/status",
    "uri": _TICKET,
    "imageUri": _IMAGE,
}
_REGISTERED: Document = {
    **_object(7),
    "bytesLoaded": _SIZE,
    "bytesTotal": _SIZE,
    "cancelled": False,
    "complete": True,
    "detailedError": False,
    "error": False,
    "message": "Ready",
    "parentUri": _IMAGE,
    "percentage": 100,
    "published": False,
    "uri": f"{_IMAGE}/status",
}
_IMAGE_DOCUMENT: Document = {
    **_object(7),
    **_FILE,
    "size": _SIZE,
    "status": _REGISTERED,
    "parentUri": _APPLIANCE,
    "basePublishImagesUri": f"{_IMAGE}/pimages",
    "statusUri": f"{_IMAGE}/status",
    "uri": _IMAGE,
}
_APPLIANCE_DOCUMENT: Document = {
    **_object(4),
    "archName": "x86_64",
    "baseImagesUri": f"{_APPLIANCE}/images",
    "basePublishImagesUri": f"{_APPLIANCE}/pimages",
    "distributionName": "Debian",
    "imageUris": [_IMAGE],
    "name": "nginx",
    "uri": _APPLIANCE,
    "version": "1",
}
_KEY: Document = {
    **_object(2),
    "name": "ci",
    "description": "For the build",
    "publicKey": "6c1f6e4c2a1f0e0b9d8c7b6a5f4e3d2c1b0a9f8e",
    "uri": f"{_USER}/apikeys/2",
}
_ROLE: Document = {
    "created": _CREATED,
    "digest": "9c5be1d24c7f8a6b5d4e3f2a1b0c0f3a",
    "lastModified": _CREATED,
    "name": "publisher",
    "description": "Publishes images",
    "entitlements": [{"description": "Publish images", "name": "image_publish"}],
}
_PLATFORM: Document = {
    **_object(101),
    "name": "openstack",
    "type": "openstack",
    "access": True,
    "active": True,
    "uri": f"{_USER}/targetplatforms/openstack",
}
_FORMAT: Document = {
    **_object(101315),
    **_TARGET_FORMAT,
    "credAccountType": "openstack",
    "access": True,
    "active": True,
    "uri": f"{_USER}/targetformats/openstack/openstackqcow2",
}

ANSWERS: dict[str, Document] = {
    "serviceStatus": {"alive": True, "version": UFORGE_API_VERSION, "serviceLoad": 0},
    "publishImage": _PUBLISH_IMAGE,
    "publishImages": _list("publishImages", _PUBLISH_IMAGE),
    "status": _STATUS,
    "statuses": _list("statuses", _STATUS),
    "image": _IMAGE_DOCUMENT,
    "images": _list("images", _IMAGE_DOCUMENT),
    "appliance": _APPLIANCE_DOCUMENT,
    "appliances": _list("appliances", _APPLIANCE_DOCUMENT),
    "credAccount": _CRED_ACCOUNT,
    "credAccounts": _list("credAccounts", _CRED_ACCOUNT),
    # A placeholder for the secret: a real one has as many hexadecimal digits.
    "apiKeyPair": _KEY | {"secretKey": "c0ffee" * 10 + "c0ff"},
    "apiKeyPairs": _list("apiKeyPairs", _KEY),
    "targetPlatform": _PLATFORM,
    "targetPlatforms": _list("targetPlatforms", _PLATFORM),
    "targetFormat": _FORMAT,
    "targetFormats": _list("targetFormats", _FORMAT),
    "user": {
        "created": _CREATED,
        "digest": "1d24c7f8a6b5d4e3f2a1b0c0f3a9c5be",
        "loginName": "root",
        "active": True,
        "admin": True,
        "baseCredAccountsUri": f"{_USER}/accounts",
        "basePublishImagesUri": f"{_USER}/pimages",
        "name": "root",
        "roles": [_ROLE],
        "uri": _USER,
    },
    "roles": _list("roles", _ROLE),
    "webhook": {"url": "https://hooks.example.com/publications", "uri": f"{_USER}/webhook"},
    "accountTest": {
        "ok": True,
        "message": "signed in to https://cloud.example.com:5000 as demo",
        "projects": [{"id": "8ac0a8bb14944a3a9d2c3f2e5f0a7c11", "name": "demo"}],
        "regions": [{"id": "RegionOne", "name": "RegionOne"}],
        "parentUri": f"{_USER}/accounts/3",
    },
}
"""The example of each root of an answer."""

_ACCOUNT_TO_STORE: Document = {
    TYPE_KEY: "CredAccountOpenStack",
    "keystoneUrl": "https://cloud.example.com:5000",
    "login": "demo",
    "password": "secret",
    "keystoneVersion": "v3",
}

REQUESTS: dict[str, Document] = {
    "publishImage": {
        TYPE_KEY: "PublishImageOpenStack",
        **_TARGET,
        "imageUri": _IMAGE,
        "credAccount": _ACCOUNT_TO_STORE,
    },
    "credAccount": _ACCOUNT_TO_STORE | {"name": "production"},
    "apiKeyPair": {"name": "ci", "description": "For the build"},
    "webhook": {"url": "https://hooks.example.com/publications"},
    "image": {"name": "nginx", "downloadUri": "https://images.example.com/nginx.qcow2", "format": {"name": "qcow2"}},
}
"""The example of each root of a request."""

_MESSAGES = {
    400: ("credAccount.port: 'x' is not an integer", "InvalidRequest"),
    401: ("the login or the password is wrong", "NotAuthenticated"),
    403: ("the entitlement 'image_publish' is needed for this", "NotAllowed"),
    404: ("there is no such resource", "NotFound"),
    406: ("Answers come as application/xml, text/xml or application/json only.", "NotAcceptable"),
    409: ("the ticket has ended", "Conflict"),
    413: ("the request body is larger than 1048576 bytes", "BodyTooLarge"),
    415: ("A request body must be application/xml, text/xml or application/json.", "UnsupportedMediaType"),
    429: ("too many sign-ins have failed; wait, then try again", "TooMany"),
    503: ("the ticket store does not answer; nothing was accepted, try again", "StoreUnavailable"),
}


def problem(status: int) -> Document:
    """Return the `uforgeError` of a status."""
    message, kind = _MESSAGES.get(status, (HTTPStatus(status).phrase, "HttpError"))
    return {
        "localizedErrorMsg": {"message": message, "messageId": kind},
        "requestMethod": "GET",
        "requestUri": f"/api/{_TICKET}",
        "statusCode": status,
        "timestamp": _CHANGED,
    }
