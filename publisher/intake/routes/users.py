"""A user, its roles and its webhook.

The webhook is an extension. Its secret is in the answer that creates it, and in no other.
"""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime

from starlette.responses import Response

from publisher.core.errors import NotFound, user_uri
from publisher.intake.caller import Caller, Calling, Operation, api_router
from publisher.platforms.platform import Document
from publisher.services.webhooks import subscribe
from publisher.store import ENTITLEMENT_DESCRIPTIONS, Role, User, webhook_uri
from publisher.web.request import Body

router = api_router()

_USER = "/users/{uid}"
_BASES = {
    "baseApiKeysUri": "apikeys",
    "baseAppliancesUri": "appliances",
    "baseCredAccountsUri": "accounts",
    "baseTargetPlatformsUri": "targetplatforms",
    "baseTargetFormatsUri": "targetformats",
    "baseImagesUri": "images",
    "basePublishImagesUri": "pimages",
    "baseRolesUri": "roles",
}


# Changes of a user's roles have no date, so these answers are dated with the time of the request. Their ETag is exact.


@router.get(_USER)
@Operation("Get a user", answer="user")
def user(caller: Calling, uid: str) -> Response:
    return caller.answer(_user_document(_found(caller, uid)), time.time())


@router.get(_USER + "/roles")
@Operation("List the roles of a user", answer="roles")
def roles(caller: Calling, uid: str) -> Response:
    documents = [_role_document(each) for each in _found(caller, uid).roles]
    return caller.answer({"total": len(documents), "roles": documents}, time.time())


@router.get(_USER + "/webhook")
@Operation("Get the webhook of a user", entitlement="image_publish", answer="webhook")
def webhook(caller: Calling, uid: str) -> Response:
    owner = caller.owner(uid)
    if caller.store.users.notify(owner).sealed_secret is None:
        raise NotFound(f"{owner} has no webhook")
    # Its changes have no date.
    return caller.answer(_webhook_document(caller, owner), time.time())


@router.put(_USER + "/webhook")
@Operation(
    "Set the webhook of a user; if this creates the secret, only this answer contains it",
    entitlement="image_publish",
    body="webhook",
    answer="webhook",
)
def set_webhook(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid)
    url = caller.read(body).get("url")
    services = caller.services
    secret = subscribe(caller.store, services.sealer, services.policy, owner, str(url) if url else None)
    changed = caller.changed(_webhook_document(caller, owner) | {"secret": secret})
    changed.headers["Cache-Control"] = "no-store"
    return changed


@router.delete(_USER + "/webhook")
@Operation("Delete the webhook of a user and its secret", entitlement="image_publish", status=204)
def forget_webhook(caller: Calling, uid: str) -> Response:
    caller.store.users.set_notify(caller.owner(uid), None, None)
    return Response(status_code=204)


def _found(caller: Caller, uid: str) -> User:
    owner = caller.owner(uid)
    found = caller.user if owner == caller.user.login else caller.store.users.get(owner)
    if found is None:  # deleted a moment ago
        raise NotFound(f"there is no user '{owner}'")
    return found


def _user_document(user: User) -> Document:
    uri = user_uri(user.login)
    seen = f"{user.login} {user.created} {user.administrator} {[_digest(role) for role in user.roles]}"
    return {
        "created": datetime.fromtimestamp(user.created, UTC),
        "dbId": user.id,
        "digest": hashlib.sha256(seen.encode()).hexdigest()[:32],
        "loginName": user.login,
        "active": True,
        "admin": user.administrator,
        **{name: f"{uri}/{path}" for name, path in _BASES.items()},
        "name": user.login,
        "roles": [_role_document(role) for role in user.roles],
        "uri": uri,
    }


def _role_document(role: Role) -> Document:
    created = datetime.fromtimestamp(role.created, UTC)
    return {
        "created": created,
        "dbId": role.id,
        "digest": _digest(role),
        # Roles are created and deleted, never changed.
        "lastModified": created,
        "name": role.name,
        "description": role.description,
        "entitlements": [
            {"description": ENTITLEMENT_DESCRIPTIONS.get(name), "name": name} for name in sorted(role.entitlements)
        ],
    }


def _digest(role: Role) -> str:
    return hashlib.sha256(f"{role.name} {role.created} {sorted(role.entitlements)}".encode()).hexdigest()[:32]


def _webhook_document(caller: Caller, owner: str) -> Document:
    return {"url": caller.store.users.notify(owner).url, "uri": webhook_uri(owner)}
