"""API keys: list, create, get, delete. Only the answer that creates a pair contains its secret key."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime

from starlette.responses import Response

from publisher.intake.caller import Calling, Operation, api_router
from publisher.platforms.platform import Document
from publisher.store import ApiKey, api_key_uri
from publisher.web import auth
from publisher.web.request import Body, Id

router = api_router()

_KEYS = "/users/{uid}/apikeys"


@router.get(_KEYS)
@Operation("List the API keys of a user, without their secret keys", entitlement="api_key_access", answer="apiKeyPairs")
def api_keys(caller: Calling, uid: str) -> Response:
    found = caller.store.api_keys.list(caller.owner(uid))
    documents = [_document(each) for each in found]
    # Deleting a key makes the list no newer, so the answer is dated with the time of the request. Its ETag is exact.
    return caller.answer({"total": len(documents), "apiKeyPairs": documents}, time.time())


@router.post(_KEYS)
@Operation(
    "Create an API key; only this answer contains its secret key",
    entitlement="api_key_access",
    body="apiKeyPair",
    answer="apiKeyPair",
    status=201,
)
def create_api_key(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid)
    document = caller.read(body)
    name = str(document.get("name") or "").strip()
    description = str(document.get("description") or "")
    key, secret = auth.new_api_key(caller.store, caller.services.sealer, owner, name, description)
    created = caller.created(_document(key) | {"secretKey": secret}, api_key_uri(owner, key.id))
    created.headers["Cache-Control"] = "no-store"
    return created


@router.get(_KEYS + "/{id}")
@Operation("Get an API key, without its secret key", entitlement="api_key_access", answer="apiKeyPair")
def api_key(caller: Calling, uid: str, id: Id) -> Response:
    key = caller.store.api_keys.get(caller.owner(uid), id)
    return caller.answer(_document(key), key.created)


@router.delete(_KEYS + "/{id}")
@Operation("Delete an API key", entitlement="api_key_access", status=204)
def delete_api_key(caller: Calling, uid: str, id: Id) -> Response:
    caller.store.api_keys.remove(caller.owner(uid), id)
    return Response(status_code=204)


def _document(key: ApiKey) -> Document:
    created = datetime.fromtimestamp(key.created, UTC)
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
