"""A `publishImage` document to a request that the core understands."""

from __future__ import annotations

from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.core.publishing import PublishRequest
from publisher.core.uris import parse_appliance_uri, parse_image_uri
from publisher.intake.wire.fields import TYPE_KEY, Document
from publisher.intake.wire.platforms import Platform, find_platform
from publisher.intake.wire.schema import CRED_ACCOUNT, SECRET_FIELDS, TYPES

_REFERENCES = ("dbId", "uri", "name")


def publish_request(document: Document, *, owner: str, appliance_id: int, image_id: int | None) -> PublishRequest:
    """What is asked for. `image_id` is that of the nested route; on the flat one `imageUri` tells it.

    Raises `InvalidRequest` for what contradicts the path or is missing.
    """
    platform = _platform(document)
    account, secrets = _account(document, platform)
    own = {field.name for field in platform.publish_image} | {"publishLocation"}
    return PublishRequest(
        owner=owner,
        appliance_id=appliance_id,
        image_id=_image_id(document, owner, appliance_id, image_id),
        platform=platform.name,
        account=account,
        secrets=secrets,
        target={name: document[name] for name in own if document.get(name) is not None},
    )


def _platform(document: Document) -> Platform:
    account = document.get(CRED_ACCOUNT)
    if not isinstance(account, dict):
        raise InvalidRequest("is needed: the cloud account to publish with", field=CRED_ACCOUNT)
    for typed in (document, account):
        name = TYPES[str(typed[TYPE_KEY])].platform if typed.get(TYPE_KEY) else None
        if name and (platform := find_platform(name)):
            return platform
    raise InvalidRequest(
        "is needed: the platform to publish to, such as openstack", field=f"{CRED_ACCOUNT}.targetPlatform.name"
    )


def _account(document: Document, platform: Platform) -> tuple[dict[str, Any], dict[str, str]]:
    account = document[CRED_ACCOUNT]
    assert isinstance(account, dict)  # noqa: S101  # so it was for `_platform`
    given = {field.name: account[field.name] for field in platform.cred_account if account.get(field.name) is not None}
    if not given and any(account.get(name) is not None for name in _REFERENCES):
        raise InvalidRequest(
            "refers to a stored account, and there is none like it; give the account itself", field=CRED_ACCOUNT
        )
    secrets = {name: str(value) for name, value in given.items() if name in SECRET_FIELDS}
    return {name: value for name, value in given.items() if name not in SECRET_FIELDS}, secrets


def _image_id(document: Document, owner: str, appliance_id: int, image_id: int | None) -> int:
    # The manual's name for the appliance and the client library's.
    for field in ("applianceUri", "parentUri"):
        uri = document.get(field)
        if uri is not None and parse_appliance_uri(str(uri), field) != (owner, appliance_id):
            raise InvalidRequest(f"'{uri}' is not the appliance of the request's path", field=field)
    uri = document.get("imageUri")
    if uri is None:
        if image_id is None:
            raise InvalidRequest("is needed: the image to publish", field="imageUri")
        return image_id
    login, appliance, image = parse_image_uri(str(uri), "imageUri")
    if (login, appliance) != (owner, appliance_id) or image_id not in (None, image):
        raise InvalidRequest(f"'{uri}' contradicts the request's path", field="imageUri")
    return image
