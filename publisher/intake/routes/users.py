"""A user, its roles, its webhook, its cloud accounts and its API keys.

The webhook is an extension. Secrets of cloud accounts are only in requests; the secrets of a webhook and of an API key
are in the answer that creates them, and in no other.
"""

from __future__ import annotations

import time
from functools import partial
from typing import cast

from starlette.responses import Response

from publisher.core.errors import InvalidRequest, NotFound
from publisher.intake.caller import EXTENSIONS, LISTING, Caller, Calling, Listed, Operation, api_router
from publisher.intake.documents import (
    account_document,
    account_test_document,
    api_key_document,
    user_document,
    webhook_document,
)
from publisher.intake.wire.schema import document_platform
from publisher.platforms.platform import CRED_ACCOUNT, Document, find_platform
from publisher.services import checks, cloud_accounts
from publisher.services.webhooks import subscribe
from publisher.store import StoredAccount, parse_account_uri
from publisher.web import AnsweredLater, Body, Id, auth, check_results

router = api_router()
credentials_router = api_router()
"""The routes of cloud accounts and API keys."""

_USER = "/users/{uid}"


# Changes of a user's roles have no date, so these answers are dated with the time of the request. Their ETag is exact.


@router.get(_USER)
@Operation("Get a user", answer="user")
def user(caller: Calling, uid: str) -> Response:
    return caller.answer(_document(caller, uid), time.time())


@router.get(_USER + "/roles")
@Operation("List the roles of a user", answer="roles")
def roles(caller: Calling, uid: str) -> Response:
    documents = cast(list[Document], _document(caller, uid)["roles"])
    return caller.answer({"total": len(documents), "roles": documents}, time.time())


@router.get(_USER + "/webhook")
@Operation("Get the webhook of a user", entitlement="image_publish", answer="webhook")
def webhook(caller: Calling, uid: str) -> Response:
    owner = caller.owner(uid)
    if caller.store.users.notify(owner).sealed_secret is None:
        raise NotFound(f"{owner} has no webhook")
    # Its changes have no date.
    return caller.answer(_webhook(caller, owner), time.time())


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
    changed = caller.changed(_webhook(caller, owner) | {"secret": secret})
    changed.headers["Cache-Control"] = "no-store"
    return changed


@router.delete(_USER + "/webhook")
@Operation("Delete the webhook of a user and its secret", entitlement="image_publish", status=204)
def forget_webhook(caller: Calling, uid: str) -> Response:
    caller.store.users.set_notify(caller.owner(uid), None, None)
    return Response(status_code=204)


def _document(caller: Caller, uid: str) -> Document:
    """Return the `user` that the path names. Raises `NotFound`."""
    owner = caller.owner(uid)
    found = caller.user if owner == caller.user.login else caller.store.users.get(owner)
    if found is None:  # deleted a moment ago
        raise NotFound(f"there is no user '{owner}'")
    return user_document(found)


def _webhook(caller: Caller, owner: str) -> Document:
    return webhook_document(owner, caller.store.users.notify(owner).url)


# Cloud accounts -------------------------------------------------------------------------------------------------------

_ACCOUNTS = _USER + "/accounts"


@credentials_router.get(_ACCOUNTS)
@Operation("List the cloud accounts of a user", answer="credAccounts", parameters=(*LISTING, EXTENSIONS))
def accounts(caller: Calling, uid: str, listing: Listed) -> Response:
    found = caller.store.accounts.page(caller.owner(uid), listing, platforms=caller.platforms)
    documents = [account_document(each) for each in found.items]
    # Deleting an account makes the list no newer, so the answer is dated with the time of the request.
    return caller.answer({"total": found.total, "credAccounts": documents}, time.time())


@credentials_router.post(_ACCOUNTS)
@Operation(
    "Store a cloud account",
    entitlement="cloud_account_create",
    body=CRED_ACCOUNT,
    answer=CRED_ACCOUNT,
    status=201,
    conflict="the name is taken",
)
def create_account(caller: Calling, body: Body, uid: str) -> Response:
    owner = caller.owner(uid)
    document = caller.read(body)
    platform = document_platform(document)
    if platform is None:
        raise InvalidRequest("is needed: the platform of the account, such as openstack", field="targetPlatform.name")
    fields, secrets = platform.account_parts(document)
    store = caller.store
    account = cloud_accounts.create(
        store,
        caller.services.sealer,
        owner=owner,
        name=_account_name(document) or cloud_accounts.free_name(store, owner, platform.name),
        platform=platform.name,
        fields=fields,
        secrets=secrets,
        policy=caller.services.policy,
    )
    document = account_document(account)
    return caller.created(document, str(document["uri"]))


@credentials_router.get(_ACCOUNTS + "/{caid}")
@Operation("Get a cloud account", answer=CRED_ACCOUNT, parameters=(EXTENSIONS,))
def account(caller: Calling, uid: str, caid: Id) -> Response:
    found = caller.store.accounts.get(caller.owner(uid), caid)
    caller.check_shown(found.platform)
    return caller.answer(account_document(found), found.modified)


@credentials_router.put(_ACCOUNTS + "/{caid}")
@Operation(
    "Change a cloud account; elements that are left out keep their values",
    entitlement="cloud_account_create",
    body=CRED_ACCOUNT,
    answer=CRED_ACCOUNT,
    parameters=(EXTENSIONS,),
    conflict="the name is taken",
)
def change_account(caller: Calling, body: Body, uid: str, caid: Id) -> Response:
    owner = caller.owner(uid)
    present = caller.store.accounts.get(owner, caid)
    caller.check_shown(present.platform)
    document = caller.read(body, lambda _: find_platform(present.platform))
    _check_same_account(document, owner, caid)
    platform = document_platform(document)
    if platform is None or platform.name != present.platform:
        raise InvalidRequest(
            f"account {caid} is for {present.platform}; create another account for another platform",
            field="targetPlatform.name",
        )
    fields, secrets = platform.account_parts(document)
    changed = cloud_accounts.change(
        caller.store,
        caller.services.sealer,
        present,
        name=_account_name(document) or None,
        fields=fields,
        secrets=secrets,
        policy=caller.services.policy,
    )
    return caller.changed(account_document(changed))


@credentials_router.delete(_ACCOUNTS + "/{caid}")
@Operation("Delete a cloud account", entitlement="cloud_account_delete", status=204)
def delete_account(caller: Calling, uid: str, caid: Id) -> Response:
    caller.store.accounts.remove(caller.owner(uid), caid)
    return Response(status_code=204)


@credentials_router.post(_ACCOUNTS + "/{caid}/test")
@Operation(
    "Test a cloud account: have a worker sign in, and list what the account can see",
    entitlement="cloud_account_create",
    answer="accountTest",
)
def test_account(caller: Calling, uid: str, caid: Id) -> Response:
    account = caller.store.accounts.get(caller.owner(uid), caid)
    check_id = checks.begin_account_test(caller.store, account)
    return AnsweredLater(partial(_tested, caller, account, check_id))


async def _tested(caller: Caller, account: StoredAccount, check_id: int) -> Response:
    result = await check_results(caller.request).result(check_id)
    return caller.changed(account_test_document(account, result))


def _account_name(document: Document) -> str:
    return str(document.get("name") or "").strip()


def _check_same_account(document: Document, owner: str, id: int) -> None:
    """Raise `InvalidRequest` if the document belongs to another account than the path names."""
    if document.get("dbId") not in (None, id):
        raise InvalidRequest("is not the account in the request's path", field="dbId")
    uri = document.get("uri")
    if uri and parse_account_uri(str(uri), "uri") != (owner, id):
        raise InvalidRequest(f"'{uri}' is not the account in the request's path", field="uri")


# API keys -------------------------------------------------------------------------------------------------------------

_KEYS = _USER + "/apikeys"


@credentials_router.get(_KEYS)
@Operation("List the API keys of a user, without their secret keys", entitlement="api_key_access", answer="apiKeyPairs")
def api_keys(caller: Calling, uid: str) -> Response:
    found = caller.store.api_keys.list(caller.owner(uid))
    documents = [api_key_document(each) for each in found]
    # Deleting a key makes the list no newer, so the answer is dated with the time of the request. Its ETag is exact.
    return caller.answer({"total": len(documents), "apiKeyPairs": documents}, time.time())


@credentials_router.post(_KEYS)
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
    document = api_key_document(key)
    created = caller.created(document | {"secretKey": secret}, str(document["uri"]))
    created.headers["Cache-Control"] = "no-store"
    return created


@credentials_router.get(_KEYS + "/{id}")
@Operation("Get an API key, without its secret key", entitlement="api_key_access", answer="apiKeyPair")
def api_key(caller: Calling, uid: str, id: Id) -> Response:
    key = caller.store.api_keys.get(caller.owner(uid), id)
    return caller.answer(api_key_document(key), key.created)


@credentials_router.delete(_KEYS + "/{id}")
@Operation("Delete an API key", entitlement="api_key_access", status=204)
def delete_api_key(caller: Calling, uid: str, id: Id) -> Response:
    caller.store.api_keys.remove(caller.owner(uid), id)
    return Response(status_code=204)
