"""The documents of tickets, images, appliances, and of users and what they own, as callers get them.

They contain no secrets: they are made from what is stored unencrypted.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from publisher.core.cloud_check import CheckResult, Explored
from publisher.core.image import Image, ImageState, appliance_uri, download_uri, image_uri, target_format
from publisher.core.image_attributes import attributes_of
from publisher.core.ticket import Progress, State, Ticket, ticket_download_uri, ticket_uri
from publisher.core.uris import user_uri
from publisher.platforms.platform import TYPE_KEY, Constant, Document, Platform, find_platform
from publisher.platforms.target_formats import format_number, platform_number, target_format_number, target_type
from publisher.store import (
    ENTITLEMENT_DESCRIPTIONS,
    ApiKey,
    Appliance,
    Contents,
    Role,
    StoredAccount,
    User,
    account_uri,
    api_key_uri,
    webhook_uri,
)

_OBJECT = ("created", "dbId", "digest", "lastModified")
"""The elements that every object begins with. A ticket and its status have the same."""
_KEPT_MAX = 256
"""Number of parts of documents that are kept because they depend on a name alone. Nobody changes them."""
_WITHOUT_REASON = frozenset({State.PUBLISHING, State.CANCELLING, State.CANCELLED, State.WITHDRAWING, State.WITHDRAWN})
_RATE_MAX = (1 << 63) - 1
_ETA_LONGEST_SECONDS = 10 * 365 * 86400.0
"""A later end is not shown: after the first bytes of a slow upload, the estimate may exceed the largest date."""


_USER_BASES = {
    "baseApiKeysUri": "apikeys",
    "baseAppliancesUri": "appliances",
    "baseCredAccountsUri": "accounts",
    "baseTargetPlatformsUri": "targetplatforms",
    "baseTargetFormatsUri": "targetformats",
    "baseImagesUri": "images",
    "basePublishImagesUri": "pimages",
    "baseRolesUri": "roles",
}
"""The addresses of what belongs to a user, below the user's own."""


def ticket_document(ticket: Ticket, image: Image | None, key: str | None = None) -> Document:
    """Return the `publishImage` of a ticket. `image` is None if it has been deleted.

    `key` is the one-time key for a download of the image.
    """
    platform, uri = _platform(ticket), _uri(ticket)
    target = {field.name: ticket.target.get(field.name) for field in platform.target_fields}
    status = _status(ticket, uri)
    document: Document = {
        TYPE_KEY: platform.publish_image_type,
        **{name: status[name] for name in _OBJECT},
        "size": ticket.progress.total,
        "status": status,
        "uploaded": ticket.state is State.PUBLISHED,
        "parentUri": appliance_uri(ticket.owner, ticket.appliance_id),
        "credAccount": _ticket_account(ticket, platform, uri),
        "name": ticket.name,
        "statusUri": f"{uri}/status",
        "uri": uri,
        "cloudId": ticket.id_in_cloud,
        "imageUri": image_uri(ticket.owner, ticket.appliance_id, ticket.image_id),
        "publishLocation": ticket.location or ticket.target.get("publishLocation"),
        "expires": _time(ticket.expires),
        "lineage": ticket.lineage,
        "keep": ticket.keep,
        "older": ticket.older,
        **target,
        **attributes_of(ticket.target),
    }
    if image:
        document |= {
            "md5sum": image.md5,
            "sha256sum": image.sha256,
            "fileSize": image.size,
            **_formats(image),
        }
    if image and key:
        document |= {
            "downloadKey": key,
            "downloadUri": ticket_download_uri(ticket.owner, ticket.appliance_id, ticket.id, key),
            "fileName": image.file_name,
        }
    if ticket.state is State.PUBLISHED:
        document["uploadedTime"] = _time(ticket.finished)
    return document


def status_document(ticket: Ticket) -> Document:
    """Return the `status` of a ticket. At the end exactly one of complete, error and cancelled is true.

    `published` tells whether a complete one is in the cloud, or was withdrawn.

    It depends on the ticket alone, so it and its ETag stay the same until the ticket changes.
    """
    return _status(ticket, _uri(ticket))


def _status(ticket: Ticket, uri: str) -> Document:
    failed, published = ticket.state is State.FAILED, ticket.state is State.PUBLISHED
    changed, progress, rate = ticket.changed, ticket.progress, ticket.bytes_per_second
    seen = f"{ticket.uid} {changed} {progress.sent} {ticket.state}"
    return {
        "created": _time(ticket.created),
        "dbId": ticket.id,
        "digest": hashlib.sha256(seen.encode()).hexdigest()[:32],
        "lastModified": _time(changed),
        "bytesLoaded": progress.sent,
        "bytesTotal": progress.total,
        "cancelled": ticket.state is State.CANCELLED,
        "complete": published or ticket.state is State.WITHDRAWN,
        "detailedError": failed and bool(ticket.error_detail),
        "detailedErrorMsg": ticket.error_detail if failed else None,
        "error": failed,
        "errorMessage": ticket.error if failed else None,
        "eta": _eta(ticket),
        "message": ticket.message,
        "parentUri": uri,
        "percentage": ticket.percentage,
        "published": published,
        "uri": f"{uri}/status",
        "phase": ticket.phase.value,
        "attempt": ticket.attempt,
        # While a worker is at it, only the attempt before may have a reason.
        "reasonCode": None if ticket.state in _WITHOUT_REASON else ticket.reason,
        "rate": None if rate is None else min(round(rate), _RATE_MAX),
        "worker": ticket.worker,
    }


def last_modified(*tickets: Ticket) -> float:
    """Return when any of the tickets last changed, in seconds since the epoch; 0 if there are none."""
    return max((each.changed for each in tickets), default=0.0)


def _eta(ticket: Ticket) -> datetime | None:
    ends = ticket.upload_ends
    return None if ends is None or ends - ticket.changed > _ETA_LONGEST_SECONDS else _time(ends)


def image_document(image: Image, *, distribution: str | None = None, key: str | None = None) -> Document:
    """Return the `image` of an image, which may still be in registration.

    `distribution` is the one of its appliance, `key` the one-time key for a download.
    """
    uri = image_uri(image.owner, image.appliance_id, image.id)
    document: Document = {
        **_image_object(image),
        "status": image_status_document(image),
        "uploaded": image.ready,
        "parentUri": appliance_uri(image.owner, image.appliance_id),
        "basePublishImagesUri": f"{uri}/pimages",
        "compress": False,
        "distributionName": distribution,
        "imageCreated": image.ready,
        "name": image.name,
        "revision": image.revision,
        "simulated": False,
        # Clients expect these in every answer.
        "size": image.size,
        "fileSize": image.size,
        **_formats(image),
        "statusUri": f"{uri}/status",
        "uri": uri,
        "version": str(image.revision),
    }
    if image.ready:
        document |= {
            "md5sum": image.md5,
            "mimeType": "application/octet-stream",
            "sha256sum": image.sha256,
            "uploadedTime": _time(image.registered),
            "fileExtension": PurePosixPath(image.file_name).suffix.removeprefix("."),
            "fileName": image.file_name,
            "vmDiskSize": image.virtual_size,
            "warning": image.warning,
        }
    if image.ready and key:
        document |= {"downloadKey": key, "downloadUri": download_uri(uri, image.file_name, key)}
    return document


def _formats(image: Image) -> Document:
    return _formats_of(image.reported_format)


@lru_cache(_KEPT_MAX)
def _formats_of(name: str) -> Document:
    target = target_format(name)
    format = Constant(dbId=format_number(name), name=name)
    return {
        "format": format,
        "targetFormat": Constant(
            dbId=target_format_number(target, name), name=target, format=format, type=target_type(target)
        ),
    }


def image_status_document(image: Image) -> Document:
    """Return the `status` of an image's registration. At the end one of complete, error and cancelled is true."""
    failed = image.state is ImageState.FAILED
    sent, total = image.sent, max(image.sent, image.total)
    uri = image_uri(image.owner, image.appliance_id, image.id)
    return {
        **_image_object(image),
        "bytesLoaded": sent,
        "bytesTotal": total,
        "cancelled": image.state is ImageState.CANCELLED,
        "complete": image.ready,
        "detailedError": False,
        "error": failed,
        "errorMessage": image.error if failed else None,
        "message": image.message,
        "parentUri": uri,
        "percentage": 100 if image.ready else Progress(sent, total).percentage if image.total else 0,
        "published": False,
        "uri": f"{uri}/status",
    }


def _image_object(image: Image) -> Document:
    seen = f"{image.id} {image.created} {image.modified} {image.state} {image.sent} {image.downloads}"
    return {
        "created": _time(image.created),
        "dbId": image.id,
        "digest": hashlib.sha256(seen.encode()).hexdigest()[:32],
        "lastModified": _time(image.modified),
    }


def appliance_document(appliance: Appliance, contents: Contents) -> Document:
    """Return the `appliance`. Its images and published images are left out if there are very many."""
    uri = appliance_uri(appliance.owner, appliance.id)
    document: Document = {
        "created": _time(appliance.created),
        "dbId": appliance.id,
        "lastModified": _time(appliance.modified),
        "archName": appliance.architecture,
        "baseImagesStatusUri": f"{uri}/images/statuses",
        "baseImagesUri": f"{uri}/images",
        "basePublishImagesStatusUri": f"{uri}/pimages/statuses",
        "basePublishImagesUri": f"{uri}/pimages",
        "description": appliance.description,
        "distributionName": appliance.distribution,
        "imageUris": None if contents.images is None else [f"{uri}/images/{id}" for id in contents.images],
        "name": appliance.name,
        "publishImageUris": None
        if contents.tickets is None
        else [f"{uri}/images/{image}/pimages/{id}" for image, id in contents.tickets],
        "revision": 1,
        "size": contents.size,
        "uri": uri,
        "version": appliance.version,
    }
    return document | {"digest": hashlib.sha256(repr(document).encode()).hexdigest()[:32]}


def ticket_account_document(ticket: Ticket) -> Document:
    """Return the `credAccount` that a ticket publishes with, as it was when the ticket was created."""
    return _ticket_account(ticket, _platform(ticket), _uri(ticket))


def _ticket_account(ticket: Ticket, platform: Platform, uri: str) -> Document:
    document = _account(platform, ticket.account)
    if ticket.account_id is not None:
        document |= {
            "dbId": ticket.account_id,
            "name": ticket.account.get("name"),
            "parentUri": user_uri(ticket.owner),
            # This URI works even after the account itself has been deleted.
            "uri": f"{uri}/accounts/{ticket.account_id}",
        }
    return document


def account_document(account: StoredAccount) -> Document:
    """Return the `credAccount` of a stored account."""
    platform = find_platform(account.platform)
    if platform is None:
        raise ValueError(f"account {account.id} is of the unknown platform {account.platform!r}")
    seen = f"{account.id} {account.name} {account.modified} {sorted(account.fields.items())}".encode()
    return _account(platform, account.fields) | {
        "created": _time(account.created),
        "dbId": account.id,
        # Replacing a secret is a change, too: sealing it again gives other bytes.
        "digest": hashlib.sha256(seen + account.sealed_secrets).hexdigest()[:32],
        "lastModified": _time(account.modified),
        "name": account.name,
        "parentUri": user_uri(account.owner),
        "uri": account_uri(account.owner, account.id),
    }


def api_key_document(key: ApiKey) -> Document:
    """Return the `apiKeyPair` of an API key, without its secret key."""
    created = _time(key.created)
    return {
        "created": created,
        "dbId": key.id,
        "digest": hashlib.sha256(key.public_key.encode()).hexdigest()[:32],
        "lastModified": created,
        "name": key.name,
        "description": key.description,
        "publicKey": key.public_key,
        "uri": api_key_uri(key.owner, key.id),
    }


def user_document(user: User) -> Document:
    """Return the `user` of a user, with its roles."""
    uri = user_uri(user.login)
    seen = f"{user.login} {user.created} {user.administrator} {[_role_digest(role) for role in user.roles]}"
    return {
        "created": _time(user.created),
        "dbId": user.id,
        "digest": hashlib.sha256(seen.encode()).hexdigest()[:32],
        "loginName": user.login,
        "active": True,
        "admin": user.administrator,
        **{name: f"{uri}/{path}" for name, path in _USER_BASES.items()},
        "name": user.login,
        "roles": [_role_document(role) for role in user.roles],
        "uri": uri,
    }


def _role_document(role: Role) -> Document:
    created = _time(role.created)
    return {
        "created": created,
        "dbId": role.id,
        "digest": _role_digest(role),
        # Roles are created and deleted, never changed.
        "lastModified": created,
        "name": role.name,
        "description": role.description,
        "entitlements": [
            {"description": ENTITLEMENT_DESCRIPTIONS.get(name), "name": name} for name in sorted(role.entitlements)
        ],
    }


def _role_digest(role: Role) -> str:
    return hashlib.sha256(f"{role.name} {role.created} {sorted(role.entitlements)}".encode()).hexdigest()[:32]


def webhook_document(owner: str, url: str | None) -> Document:
    """Return the `webhook` of a user, without its secret."""
    return {"url": url, "uri": webhook_uri(owner)}


def account_test_document(account: StoredAccount, result: CheckResult) -> Document:
    """Return the `accountTest` of an account that was tested."""
    found = result.explored or Explored()
    return {
        "ok": result.ok,
        "message": result.words,
        "reasonCode": result.reason,
        **{kind: [asdict(each) for each in found.places(kind)] for kind in ("projects", "regions", "networks")},
        "parentUri": account_uri(account.owner, account.id),
    }


def _account(platform: Platform, fields: dict[str, Any]) -> Document:
    return {
        TYPE_KEY: platform.cred_account_type,
        "targetPlatform": _target_platform(platform.name),
        "secretsMissing": True,
        **{name: fields.get(name) for name in platform.open_names},
    }


@lru_cache(_KEPT_MAX)
def _target_platform(name: str) -> Document:
    return Constant(dbId=platform_number(name), name=name, type=name)


def _platform(ticket: Ticket) -> Platform:
    platform = find_platform(ticket.platform)
    if platform is None:
        raise ValueError(f"ticket {ticket.id} is of the unknown platform {ticket.platform!r}")
    return platform


def _uri(ticket: Ticket) -> str:
    return ticket_uri(ticket.owner, ticket.appliance_id, ticket.image_id, ticket.id)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
