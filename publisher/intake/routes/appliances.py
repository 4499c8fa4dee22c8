"""Appliances, the labels that group images. The command line creates them, or their first use."""

from __future__ import annotations

import time

from starlette.responses import Response

from publisher.intake.caller import EXTENSIONS, LISTING, Calling, Listed, Operation, api_router
from publisher.intake.documents import appliance_document
from publisher.store import Contents
from publisher.web import Id

router = api_router()

_APPLIANCES = "/users/{uid}/appliances"

# An appliance does not record when its images change, so these answers are dated with the time of the request.


@router.get(_APPLIANCES)
@Operation(
    "List the appliances of a user",
    entitlement="appliance_create",
    answer="appliances",
    parameters=(*LISTING, EXTENSIONS),
)
def appliances(caller: Calling, uid: str, listing: Listed) -> Response:
    owner = caller.owner(uid)
    store = caller.store.appliances
    found = store.page(owner, listing)
    contents = store.contents(owner, platforms=caller.platforms)
    documents = [appliance_document(each, contents.get(each.id, Contents())) for each in found.items]
    return caller.answer({"total": found.total, "appliances": documents}, time.time())


@router.get(_APPLIANCES + "/{aid}")
@Operation("Get an appliance", entitlement="appliance_create", answer="appliance", parameters=(EXTENSIONS,))
def appliance(caller: Calling, uid: str, aid: Id) -> Response:
    owner = caller.owner(uid)
    store = caller.store.appliances
    found = store.get(owner, aid)
    contents = store.contents(owner, aid, platforms=caller.platforms).get(aid, Contents())
    return caller.answer(appliance_document(found, contents), time.time())
