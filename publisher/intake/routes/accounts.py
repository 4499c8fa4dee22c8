"""Cloud accounts: list, create, get, change, delete. Their secrets come in and never go out."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from publisher.core.errors import InvalidRequest
from publisher.core.uris import account_uri, parse_account_uri
from publisher.intake.caller import Calling
from publisher.intake.documents import account_document
from publisher.intake.list_parameters import Listed
from publisher.intake.wire.codec import write_document
from publisher.intake.wire.schema import TYPES
from publisher.platforms.platform import CRED_ACCOUNT, TYPE_KEY, Document, Platform, find_platform
from publisher.services import accounts as account_cases
from publisher.store.accounts import StoredAccount
from publisher.web.request import Body, Id
from publisher.web.writer_threads import WriterRoute

router = APIRouter(route_class=WriterRoute)

_ACCOUNTS = "/users/{uid}/accounts"
_CREATE, _DELETE = "cloud_account_create", "cloud_account_delete"


@router.get(_ACCOUNTS)
def accounts(caller: Calling, uid: str, listing: Listed) -> Response:
    found = caller.store.accounts.page(caller.owner(uid, None), listing, platforms=caller.platforms)
    documents = [account_document(each) for each in found.items]
    # A list from which an account was deleted is no older than before: its date is that of asking.
    return caller.answer("credAccounts", {"total": found.total, "credAccounts": documents}, time.time())


@router.post(_ACCOUNTS)
def create_account(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid, _CREATE)
    document = caller.read(body, CRED_ACCOUNT)
    platform = _platform(document)
    if platform is None:
        raise InvalidRequest("is needed: the platform of the account, such as openstack", field="targetPlatform.name")
    fields, secrets = platform.account_parts(document)
    store = caller.store
    account = account_cases.create(
        store,
        caller.services.sealer,
        owner=owner,
        name=_name(document) or account_cases.free_name(store, owner, platform.name),
        platform=platform.name,
        fields=fields,
        secrets=secrets,
        policy=caller.services.policy,
    )
    return caller.created(CRED_ACCOUNT, account_document(account), account_uri(owner, account.id))


@router.get(_ACCOUNTS + "/{caid}")
def account(caller: Calling, uid: str, caid: Id) -> Response:
    found = caller.store.accounts.get(caller.owner(uid, None), caid)
    caller.check_shown(found.platform)
    return caller.answer(CRED_ACCOUNT, account_document(found), found.modified)


@router.put(_ACCOUNTS + "/{caid}")
def change_account(caller: Calling, body: Body, uid: str, caid: Id) -> Response:
    owner = caller.owner(uid, _CREATE)
    present = caller.store.accounts.get(owner, caid)
    caller.check_shown(present.platform)
    document = caller.read(body, CRED_ACCOUNT, present.platform)
    _check_same(document, present)
    platform = _platform(document)
    if platform is None or platform.name != present.platform:
        raise InvalidRequest(
            f"account {caid} is of {present.platform}; make another for another platform", field="targetPlatform.name"
        )
    fields, secrets = platform.account_parts(document)
    changed = account_cases.change(
        caller.store,
        caller.services.sealer,
        present,
        name=_name(document) or None,
        fields=fields,
        secrets=secrets,
        policy=caller.services.policy,
    )
    body = write_document(caller.form, CRED_ACCOUNT, account_document(changed))
    return Response(body, media_type=caller.form.content_type)


@router.delete(_ACCOUNTS + "/{caid}")
def delete_account(caller: Calling, uid: str, caid: Id) -> Response:
    caller.store.accounts.remove(caller.owner(uid, _DELETE), caid)
    return Response(status_code=204)


def _platform(document: Document) -> Platform | None:
    type_name = document.get(TYPE_KEY)
    return find_platform(TYPES[str(type_name)].platform) if type_name else None


def _name(document: Document) -> str:
    return str(document.get("name") or "").strip()


def _check_same(document: Document, present: StoredAccount) -> None:
    """Raises `InvalidRequest` where a document is that of another account than the path names."""
    if document.get("dbId") not in (None, present.id):
        raise InvalidRequest("contradicts the request's path", field="dbId")
    uri = document.get("uri")
    if uri and parse_account_uri(str(uri), "uri") != (present.owner, present.id):
        raise InvalidRequest(f"'{uri}' contradicts the request's path", field="uri")
