"""Where a user is told of its publications: got, set, forgotten. An extension of ours.

The secret that they are signed with is in the answer that makes it, and in no other.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from publisher.core.errors import NotFound
from publisher.core.uris import webhook_uri
from publisher.intake.caller import Caller, Calling
from publisher.intake.wire.codec import write_document
from publisher.platforms.fields import Document
from publisher.services.webhooks import subscribe
from publisher.web.request import Body, WriterRoute

router = APIRouter(route_class=WriterRoute)

_WEBHOOK = "/users/{uid}/webhook"
_ENTITLEMENT = "image_publish"


@router.get(_WEBHOOK)
def webhook(caller: Calling, uid: str) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    if caller.store.users.notify(owner).sealed_secret is None:
        raise NotFound(f"{owner} has no webhook")
    # When it changed is not kept.
    return caller.answer("webhook", _document(caller, owner), time.time())


@router.put(_WEBHOOK)
def set_webhook(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid, _ENTITLEMENT)
    url = caller.read(body, "webhook").get("url")
    services = caller.services
    secret = subscribe(caller.store, services.sealer, services.policy, owner, str(url) if url else None)
    shown = write_document(caller.form, "webhook", _document(caller, owner) | {"secret": secret})
    return Response(shown, media_type=caller.form.content_type, headers={"Cache-Control": "no-store"})


@router.delete(_WEBHOOK)
def forget_webhook(caller: Calling, uid: str) -> Response:
    caller.store.users.set_notify(caller.owner(uid, _ENTITLEMENT), None, None)
    return Response(status_code=204)


def _document(caller: Caller, owner: str) -> Document:
    return {"url": caller.store.users.notify(owner).url, "uri": webhook_uri(owner)}
