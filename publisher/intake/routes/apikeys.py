"""API keys: list, create, get, delete. The secret half is in the answer that creates a pair, and in no other."""

from __future__ import annotations

import hashlib
import secrets
import time
from datetime import UTC, datetime

from fastapi import APIRouter, Response

from publisher.core.errors import InvalidRequest
from publisher.core.store.api_keys import ApiKey
from publisher.core.uris import api_key_uri
from publisher.intake.auth import API_SECRET
from publisher.intake.exchange import Body, Calling, Id
from publisher.intake.wire.fields import Document

router = APIRouter()

_KEYS = "/users/{uid}/apikeys"
_ENTITLEMENT = "api_key_access"
_NAME_MAX = 255
_PUBLIC_BYTES = 20
_SECRET_BYTES = 32


@router.get(_KEYS)
def api_keys(caller: Calling, uid: str) -> Response:
    found = caller.services.store.api_keys.list(caller.owner(uid, _ENTITLEMENT))
    documents = [_document(each) for each in found]
    # A list from which a key was deleted is no older than before: its date is that of asking, its ETag tells more.
    return caller.answer("apiKeyPairs", {"total": len(documents), "apiKeyPairs": documents}, time.time())


@router.post(_KEYS)
def create_api_key(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    document = caller.read(body, "apiKeyPair")
    name = str(document.get("name") or "").strip()
    if not 0 < len(name) <= _NAME_MAX:
        raise InvalidRequest(f"is needed: 1 to {_NAME_MAX} characters", field="name")
    # Both halves are ours to make. Hexadecimal digits need no encoding in a URL.
    secret = secrets.token_hex(_SECRET_BYTES)
    key = caller.store.api_keys.add(
        owner=owner,
        name=name,
        description=str(document.get("description") or ""),
        public_key=secrets.token_hex(_PUBLIC_BYTES),
        sealed_secret=caller.services.sealer.seal({API_SECRET: secret}),
    )
    created = caller.created("apiKeyPair", _document(key) | {"secretKey": secret}, api_key_uri(owner, key.id))
    created.headers["Cache-Control"] = "no-store"
    return created


@router.get(_KEYS + "/{id}")
def api_key(caller: Calling, uid: str, id: Id) -> Response:
    key = caller.services.store.api_keys.get(caller.owner(uid, _ENTITLEMENT), id)
    return caller.answer("apiKeyPair", _document(key), key.created)


@router.delete(_KEYS + "/{id}")
def delete_api_key(caller: Calling, uid: str, id: Id) -> Response:
    caller.store.api_keys.remove(caller.owner(uid, _ENTITLEMENT), id)
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
