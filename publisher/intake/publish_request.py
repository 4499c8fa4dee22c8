"""Read the `publishImage` document of a publish request, and the `credAccount` of a withdrawal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from publisher.core.errors import InvalidRequest
from publisher.core.image import parse_appliance_uri, parse_image_uri
from publisher.core.ticket import Ticket
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
    own = platform.target_names
    request = PublishRequest(
        owner=owner,
        appliance_id=appliance_id,
        image_id=_image_id(document, owner, appliance_id, image_id),
        platform=platform.name,
        account=account,
        secrets=secrets,
        target={name: value for name, value in document.items() if name in own and value not in (None, [])},
        notify=str(document["notify"]) if document.get("notify") else None,
        expires=_moment(document, "expires"),
        lineage=str(document["lineage"]) if document.get("lineage") is not None else None,
        keep=int(str(document["keep"])) if document.get("keep") is not None else None,
        older=str(document["older"]) if document.get("older") is not None else None,
        image_in_path=image_id is not None,
    )
    return request.using(stored) if stored else request


def read_account(caller: Caller, body: bytes, ticket: Ticket) -> PublishRequest | None:
    """Read the `credAccount` in a request's body: the account to withdraw a ticket with. None if there is no body.

    Raises as `read_publish_request` does, and `InvalidRequest` if the account is of another platform than the ticket.
    """
    if not body.strip():
        return None
    given = caller.read(body)
    platform = document_platform(given) or find_platform(ticket.platform)
    if platform is None or platform.name != ticket.platform:
        raise InvalidRequest(f"must be an account of {ticket.platform}, as the ticket's", field=CRED_ACCOUNT)
    stored = _Reference(caller.services.store, ticket.owner).find(given)
    account, secrets = platform.account_parts(given)
    request = PublishRequest(
        ticket.owner, ticket.appliance_id, ticket.image_id, platform.name, account, secrets, ticket.target
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


def _moment(document: Document, name: str) -> float | None:
    """Return a dateTime of the document in seconds since the epoch; None without one."""
    given = document.get(name)
    return given.timestamp() if isinstance(given, datetime) else None


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
