"""A `publishImage` document, or a `credAccount`, to what the core understands."""

from __future__ import annotations

from publisher.core.errors import InvalidRequest
from publisher.core.uris import parse_account_uri, parse_appliance_uri, parse_image_uri
from publisher.intake.wire.schema import TYPES
from publisher.platforms.platform import CRED_ACCOUNT, TYPE_KEY, Document, Platform, find_platform
from publisher.services.publishing import PublishRequest
from publisher.store.accounts import Accounts, StoredAccount

_OF_ANY_ACCOUNT = {TYPE_KEY} | {field.name for field in TYPES[CRED_ACCOUNT].fields}


def referred_account(accounts: Accounts, document: Document, owner: str) -> StoredAccount | None:
    """The stored account that a `publishImage` names by `dbId`, `uri` or `name`; None where it names none.

    Raises `InvalidRequest` where the user has none like it, or where they name different ones.
    """
    account = document.get(CRED_ACCOUNT)
    if not isinstance(account, dict):
        return None
    id, name = _id_referred_to(account, owner), str(account.get("name") or "").strip()
    if id is None and not name:
        return None
    found = accounts.find(owner, name=name) if id is None else accounts.find(owner, id=id)
    if found is None:
        # A whole account may have a name and be no reference by that.
        if id is None and set(account) - _OF_ANY_ACCOUNT:
            return None
        raise _no_such_account()
    if name not in ("", found.name):
        raise InvalidRequest(f"'{name}' is not the name of account {found.id}", field=f"{CRED_ACCOUNT}.name")
    return found


def publish_request(
    document: Document,
    *,
    owner: str,
    appliance_id: int,
    image_id: int | None,
    stored: StoredAccount | None = None,
) -> PublishRequest:
    """Turn a `publishImage` into a request. `stored` is the account that the document refers to.

    `image_id` comes from the nested route; on the flat route it is None, and `imageUri` names the image.
    Raises `InvalidRequest` for what is missing, or contradicts the path or the stored account.
    """
    platform = _platform(document)
    inline = document[CRED_ACCOUNT]
    assert isinstance(inline, dict)  # noqa: S101  # so it was for `_platform`
    account, secrets = platform.account_parts(inline)
    own = {field.name for field in platform.target_fields} | {"publishLocation"}
    request = PublishRequest(
        owner=owner,
        appliance_id=appliance_id,
        image_id=_image_id(document, owner, appliance_id, image_id),
        platform=platform.name,
        account=account,
        secrets=secrets,
        target={name: document[name] for name in own if document.get(name) is not None},
        notify=str(document["notify"]) if document.get("notify") else None,
    )
    return request.using(stored) if stored else request


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


def _id_referred_to(account: Document, owner: str) -> int | None:
    """By `dbId`, `uri` or both. Raises `InvalidRequest`."""
    ids = [] if account.get("dbId") is None else [int(str(account["dbId"]))]
    if account.get("uri"):
        login, id = parse_account_uri(str(account["uri"]), f"{CRED_ACCOUNT}.uri")
        if login != owner:
            raise _no_such_account()
        ids.append(id)
    if len(set(ids)) > 1:
        raise InvalidRequest(f"contradicts the dbId, {ids[0]}", field=f"{CRED_ACCOUNT}.uri")
    return ids[0] if ids else None


def _no_such_account() -> InvalidRequest:
    return InvalidRequest("refers to a stored account, and there is none like it", field=CRED_ACCOUNT)


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
