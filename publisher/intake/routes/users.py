"""A user and its roles."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime

from fastapi import APIRouter, Response

from publisher.core.errors import NotFound
from publisher.core.uris import user_uri
from publisher.intake.caller import Caller, Calling
from publisher.platforms.fields import Document
from publisher.store.users import ENTITLEMENT_DESCRIPTIONS, Role, User

router = APIRouter()

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


# When a user's roles changed is not kept: the date of these answers is that of asking, and their ETag tells more.


@router.get(_USER)
def user(caller: Calling, uid: str) -> Response:
    return caller.answer("user", _user_document(_found(caller, uid)), time.time())


@router.get(_USER + "/roles")
def roles(caller: Calling, uid: str) -> Response:
    documents = [_role_document(each) for each in _found(caller, uid).roles]
    return caller.answer("roles", {"total": len(documents), "roles": documents}, time.time())


def _found(caller: Caller, uid: str) -> User:
    owner = caller.owner(uid, None)
    found = caller.user if owner == caller.user.login else caller.store.users.get(owner)
    if found is None:  # removed since a moment ago
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
        # A role is made and removed, never changed.
        "lastModified": created,
        "name": role.name,
        "description": role.description,
        "entitlements": [
            {"description": ENTITLEMENT_DESCRIPTIONS.get(name), "name": name} for name in sorted(role.entitlements)
        ],
    }


def _digest(role: Role) -> str:
    return hashlib.sha256(f"{role.name} {role.created} {sorted(role.entitlements)}".encode()).hexdigest()[:32]
