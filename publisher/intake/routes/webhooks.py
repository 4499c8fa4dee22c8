"""Where a user is told of its publications: got, set, forgotten. An extension of ours.

The secret that they are signed with is in the answer that makes it, and in no other.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from publisher.core.errors import NotFound
from publisher.core.uris import webhook_uri
from publisher.intake.caller import Caller, Calling, Operation
from publisher.platforms.fields import Document
from publisher.services.webhooks import subscribe
from publisher.web.request import Body
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)

_WEBHOOK = "/users/{uid}/webhook"


@router.get(_WEBHOOK)
@Operation("Where a user is told of its publications", entitlement="image_publish", answer="webhook")
def webhook(caller: Calling, uid: str) -> Response:
    owner = caller.owner(uid)
    if caller.store.users.notify(owner).sealed_secret is None:
        raise NotFound(f"{owner} has no webhook")
    # When it changed is not kept.
    return caller.answer(_document(caller, owner), time.time())


@router.put(_WEBHOOK)
@Operation(
    "Have a user told: where this makes the secret that is signed with, it is in this answer and in no other",
    entitlement="image_publish",
    body="webhook",
    answer="webhook",
)
def set_webhook(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid)
    url = caller.read(body).get("url")
    services = caller.services
    secret = subscribe(caller.store, services.sealer, services.policy, owner, str(url) if url else None)
    changed = caller.changed(_document(caller, owner) | {"secret": secret})
    changed.headers["Cache-Control"] = "no-store"
    return changed


@router.delete(_WEBHOOK)
@Operation("Tell a user no more, and forget the secret", entitlement="image_publish", status=204)
def forget_webhook(caller: Calling, uid: str) -> Response:
    caller.store.users.set_notify(caller.owner(uid), None, None)
    return Response(status_code=204)


def _document(caller: Caller, owner: str) -> Document:
    return {"url": caller.store.users.notify(owner).url, "uri": webhook_uri(owner)}
