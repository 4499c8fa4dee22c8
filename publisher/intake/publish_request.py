"""Read the `publishImage` document of a publish request."""

from __future__ import annotations

from dataclasses import dataclass

from publisher.core.errors import InvalidRequest
from publisher.core.image import parse_appliance_uri, parse_image_uri
from publisher.intake.caller import Caller
from publisher.intake.wire.schema import TYPES, document_platform
from publisher.platforms.platform import CRED_ACCOUNT, TYPE_KEY, Document, Platform, find_platform
from publisher.services.publishing import PublishRequest
from publisher.store import Store, StoredAccount, parse_account_uri

_OF_ANY_ACCOUNT = {TYPE_KEY} | {field.name for field in TYPES[CRED_ACCOUNT].fields}


def read_publish_request(
    caller: Caller, body: bytes, *, owner: str, appliance_id: int, image_id: int | None
) -> PublishRequest:
    """Read the `publishImage` in a request's body.

    `image_id` comes from the nested route; on the flat route it is None, and `imageUri` names the image.

    Raises `UnsupportedMediaType`, `BodyTooLarge`, and `InvalidRequest` for an element that is missing, or contradicts
    the path or the stored account.
    """
    reference = _Reference(caller.services.store, owner)
    document = caller.read(body, reference.platform)
    given = document.get(CRED_ACCOUNT)
    if not isinstance(given, dict):
        raise InvalidRequest("is needed: the cloud account to publish with", field=CRED_ACCOUNT)
    stored = reference.account or reference.find(given)
    platform = document_platform(document)
    if platform is None:
        raise InvalidRequest(
            "is needed: the platform to publish to, such as openstack", field=f"{CRED_ACCOUNT}.targetPlatform.name"
        )
    account, secrets = platform.account_parts(given)
    own = {field.name for field in platform.all_target_fields} | {"publishLocation"}
    request = PublishRequest(
        owner=owner,
        appliance_id=appliance_id,
        image_id=_image_id(document, owner, appliance_id, image_id),
        platform=platform.name,
        account=account,
        secrets=secrets,
        target={name: document[name] for name in own if document.get(name) not in (None, [])},
        notify=str(document["notify"]) if document.get("notify") else None,
        image_in_path=image_id is not None,
    )
    return request.using(stored) if stored else request


@dataclass(slots=True)
class _Reference:
    """The stored account that a `publishImage` refers to."""

    store: Store
    owner: str
    account: StoredAccount | None = None

    def platform(self, account: Document) -> Platform | None:
        """Return the platform of the stored account: only this tells which elements the document may have."""
        self.account = self.find(account)
        return find_platform(self.account.platform) if self.account else None

    def find(self, account: Document) -> StoredAccount | None:
        """Return the stored account that a `credAccount` names by `dbId`, `uri` or `name`; None if it names none.

        Raises `InvalidRequest` if the user has no such account, or if the names belong to different ones.
        """
        id, name = _id_referred_to(account, self.owner), str(account.get("name") or "").strip()
        if id is None and not name:
            return None
        accounts = self.store.accounts
        found = accounts.find(self.owner, name=name) if id is None else accounts.find(self.owner, id=id)
        if found is None:
            # An account that is given in full may have a name without being a reference.
            if id is None and set(account) - _OF_ANY_ACCOUNT:
                return None
            raise _no_such_account()
        if name not in ("", found.name):
            raise InvalidRequest(f"'{name}' is not the name of account {found.id}", field=f"{CRED_ACCOUNT}.name")
        return found


def _id_referred_to(account: Document, owner: str) -> int | None:
    """Return the id that `dbId`, `uri` or both name; None without them. Raises `InvalidRequest`."""
    ids = [] if account.get("dbId") is None else [int(str(account["dbId"]))]
    if account.get("uri"):
        login, id = parse_account_uri(str(account["uri"]), f"{CRED_ACCOUNT}.uri")
        if login != owner:
            raise _no_such_account()
        ids.append(id)
    if len(set(ids)) > 1:
        raise InvalidRequest(f"names another account than the dbId, {ids[0]}", field=f"{CRED_ACCOUNT}.uri")
    return ids[0] if ids else None


def _no_such_account() -> InvalidRequest:
    return InvalidRequest(
        "refers to a stored account that does not exist; send the dbId of one that does", field=CRED_ACCOUNT
    )


def _image_id(document: Document, owner: str, appliance_id: int, image_id: int | None) -> int:
    # The manual calls the appliance `applianceUri`, the client library `parentUri`.
    for field in ("applianceUri", "parentUri"):
        uri = document.get(field)
        if uri is not None and parse_appliance_uri(str(uri), field) != (owner, appliance_id):
            raise InvalidRequest(f"'{uri}' is not the appliance in the request's path", field=field)
    uri = document.get("imageUri")
    if uri is None:
        if image_id is None:
            raise InvalidRequest("is needed: the image to publish", field="imageUri")
        return image_id
    login, appliance, image = parse_image_uri(str(uri), "imageUri")
    if (login, appliance) != (owner, appliance_id) or image_id not in (None, image):
        raise InvalidRequest(f"'{uri}' does not match the request's path", field="imageUri")
    return image
