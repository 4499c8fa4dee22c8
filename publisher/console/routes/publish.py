"""Publish an image: the form, its choices, what was filled in, and the publish request that it makes."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from starlette.responses import PlainTextResponse, Response

from publisher.console.page_request import Form, Posted, Visit, Visiting, first_steps, page_router
from publisher.console.rendering import (
    ACCOUNT_PREFIX,
    BASE,
    Element,
    account_elements,
    attribute_elements,
    chosen_platform,
    field_errors,
    filled_in,
    filled_in_attributes,
    installed_platforms,
    lifetime_elements,
    lines,
    sentence,
    target_elements,
    with_parameter,
)
from publisher.core.asking import alone
from publisher.core.errors import (
    Conflict,
    InvalidRequest,
    NotChecked,
    NotFound,
    PublisherError,
    TooMany,
    own,
    require_own,
)
from publisher.core.image import Image, ImageState, image_uri
from publisher.core.image_attributes import VISIBILITY
from publisher.core.uris import parse_id
from publisher.intake.wire.writing import write_json_request
from publisher.platforms.platform import (
    CRED_ACCOUNT,
    LIFETIME,
    NAME_TEMPLATE,
    PUBLISH_IMAGE,
    TYPE_KEY,
    Document,
    Platform,
)
from publisher.services import checks, publishing
from publisher.store import IdempotencyKey, StoredAccount, account_uri
from publisher.web import AnsweredLater, check_results, writers

router = page_router()

_NEW = "/publications/new"
_ENTITLEMENT = "image_publish"
_WITH_ANY_ACCOUNT = ("image", "account", "platform", "displayName", "preflight")
"""The fields that keep their values when another account is chosen."""
_PAGE_ID = "page"
"""A field of the form with a value of its own in each page."""
_PAGE_ID_MAX = 64
_PREFLIGHT = "preflight"
"""A field of the form that is ticked if the cloud is to be asked first."""
_STATUSES: dict[type[PublisherError], int] = {TooMany: 429, Conflict: 409, NotChecked: 503}
_REFUSALS: tuple[type[PublisherError], ...] = (InvalidRequest, *_STATUSES)
"""The errors that a form may have."""
_NOT_STORED = "other"
"""The choice of an account that is filled in here and not stored."""

_FIELDS = {"imageUri": "image", CRED_ACCOUNT: "account", f"{CRED_ACCOUNT}.targetPlatform.name": "platform"}
"""The form's names for fields that errors name differently."""

_OF_THE_IMAGE = "displayName"
"""The field that is not recalled, because another image has another name."""
_IMAGES_MAX = 200
_SECRET = "CLOUD-PASSWORD"  # noqa: S105  # what stands for one


@router.get(_NEW)
def new_publication(visit: Visiting) -> Response:
    """Show the form. The address can choose `image` and `account`.

    With `again`, the number of a ticket, all fields are filled in as they were for that ticket.
    """
    visit.require(_ENTITLEMENT)
    given = dict(visit.request.query_params)
    if again := given.pop("again", ""):
        return _page(visit, _draft(visit, _as_before(visit, again) | given))
    return _page(visit, _draft(visit, given, recall=True))


@router.post(_NEW)
def publish(visit: Visiting, form: Posted) -> Response:
    """Publish what the form describes or, with `show`, show the form again for what was chosen."""
    visit.require(_ENTITLEMENT)
    if "show" in form:
        return _page(visit, _chosen(visit, form))
    drafted = _draft(visit, form)
    if drafted.errors:
        return _page(visit, drafted, drafted.errors, 400)
    key, services = _key(visit, form), visit.services
    if form.get(_PREFLIGHT):
        begin = checks.begin_preflight(visit.store, services.sealer, drafted.request, key, policy=services.policy)
        try:
            check_id = alone(begin)
        except _REFUSALS as error:
            return _refused(visit, drafted, error)
        if check_id is not None:
            return AnsweredLater(partial(_after_preflight, visit, drafted, key, check_id))
    return _accept(visit, drafted, key)


async def _after_preflight(visit: Visit, drafted: Draft, key: IdempotencyKey | None, check_id: int) -> Response:
    """Wait for the preflight, and publish if the cloud would accept the image."""
    try:
        checks.require_passed(await check_results(visit.request).result(check_id))
    except _REFUSALS as error:
        return await writers.run(_refused, visit, drafted, error)
    accepted = await writers.run(_accept, visit, drafted, key)
    accepted.background = visit.after
    return accepted


def _accept(visit: Visit, drafted: Draft, key: IdempotencyKey | None) -> Response:
    """Create the ticket and show it; or show the form again, with what is wrong."""
    services = visit.services
    publish = publishing.publish(
        visit.store, services.sealer, drafted.request, key, policy=services.policy, wake=visit.wake_ticket
    )
    try:
        ticket = alone(publish).ticket
    except _REFUSALS as error:
        return _refused(visit, drafted, error)
    return visit.redirect(f"/publications/{ticket.id}", f"Ticket {ticket.id} accepted.")


def _refused(visit: Visit, drafted: Draft, error: PublisherError) -> Response:
    """Show the form again, with what is wrong."""
    if isinstance(error, InvalidRequest):
        return _page(visit, drafted, drafted.field_errors(error), 400)
    status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
    return _page(visit, drafted, {"": sentence(str(error))}, status)


@router.post(_NEW + "/command")
def command(visit: Visiting, form: Posted) -> Response:
    """Return the equivalent curl command, as far as the form is filled in."""
    visit.require(_ENTITLEMENT)
    return PlainTextResponse(_command(visit, _draft(visit, form)))


def _key(visit: Visit, form: Form) -> IdempotencyKey | None:
    """Return the key of this page's form, so that a second click or a repeated submission makes no second ticket."""
    if not (page := form.get(_PAGE_ID, "")[:_PAGE_ID_MAX]):
        return None
    filled_in = sorted((name, value) for name, value in form.multi_items() if name != "csrf")
    fingerprints = tuple(visit.services.sealer.fingerprints(json.dumps(filled_in).encode()))
    return IdempotencyKey(
        visit.user.login, f"console {page}", fingerprints, visit.services.settings.idempotency_seconds
    )


def _chosen(visit: Visit, form: Form) -> Draft:
    """Keep what was filled in; if another account was chosen, recall that account's target instead."""
    if form.get("shown") in (None, form.get("account")):
        return _draft(visit, form)
    return _draft(visit, {name: form[name] for name in _WITH_ANY_ACCOUNT if name in form}, recall=True)


def _store_at(visit: Visit, drafted: Draft) -> str | None:
    """Return the address that stores an account and returns here.

    None if the user may not store accounts, or publishes for someone else.
    """
    if not visit.may("cloud_account_create") or drafted.owner != visit.user.login:
        return None
    here = BASE + _NEW
    here = with_parameter(here, "image", drafted.image.id) if drafted.image else here
    return with_parameter(f"{BASE}/accounts/new", "next", here)


def _command(visit: Visit, drafted: Draft) -> str:
    return drafted.command(visit.api_url, visit.user.login)


def _page(visit: Visit, drafted: Draft, errors: Mapping[str, str] = {}, status: int = 200) -> Response:
    return visit.page(
        "publishing/new.html",
        status=status,
        draft=drafted,
        not_stored=_NOT_STORED,
        page_id=secrets.token_urlsafe(16),
        errors=errors,
        store_at=_store_at(visit, drafted),
        command=_command(visit, drafted),
        steps=first_steps(visit.store, visit.user),
    )


# What is filled in ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draft:
    """A publish request that is being filled in. `owner` owns the image, the account and the ticket."""

    owner: str
    images: list[Image]
    image: Image | None
    accounts: list[StoredAccount]
    account: StoredAccount | None
    platforms: list[Platform]
    platform: Platform
    form: Mapping[str, str]

    @property
    def account_elements(self) -> list[Element]:
        """The fields to fill in; none if a stored account is chosen."""
        return [] if self.account else account_elements(self.platform, prefix=ACCOUNT_PREFIX)

    @property
    def target_elements(self) -> list[Element]:
        return target_elements(self.platform, self.account.explored if self.account else None)

    @property
    def attribute_elements(self) -> list[Element]:
        return attribute_elements(self.platform)

    @property
    def lifetime_elements(self) -> list[Element]:
        return lifetime_elements(self.platform)

    def any_shown(self, elements: list[Element], errors: Mapping[str, str]) -> bool:
        """Return whether one of these fields is filled in, or wrong."""
        wrong = errors.keys() | self.errors.keys()
        return any(self.form.get(each.name) or each.name in wrong for each in elements)

    @cached_property
    def errors(self) -> dict[str, str]:
        """Errors in what was filled in, as far as each field can be checked alone."""
        return self._read.errors

    def field_errors(self, error: InvalidRequest) -> dict[str, str]:
        """Return an error by the form's field that it is about.

        Errors in a stored account belong to the choice of account.
        """
        if self.account and (error.field or "").startswith(ACCOUNT_PREFIX):
            return {"account": " ".join(field_errors(error).values())}
        return field_errors(error, _FIELDS)

    def request(self) -> publishing.PublishRequest:
        """Return the publish request. Raises `InvalidRequest`."""
        if self.image is None:
            raise InvalidRequest("choose the image to publish", field="imageUri")
        account, secrets = self.platform.account_parts(self._read.account)
        request = publishing.PublishRequest(
            owner=self.owner,
            appliance_id=self.image.appliance_id,
            image_id=self.image.id,
            platform=self.platform.name,
            account=account,
            secrets=secrets,
            target=self._read.target,
            **self._read.lifetime,
        )
        return request.using(self.account) if self.account else request

    def command(self, api: str, login: str) -> str:
        """Return a curl command that sends the same request to the API at `api`. It contains no password."""
        if self.image is None:
            return ""
        account: Document = {TYPE_KEY: self.platform.cred_account_type}
        if self.account:
            account["uri"] = account_uri(self.owner, self.account.id)
        else:
            hidden = self.platform.secret_names
            account |= {name: value for name, value in self._read.account.items() if name not in hidden}
            asked = hidden.intersection((*self.platform.required, *self._read.account))
            account |= dict.fromkeys(sorted(asked or hidden.intersection(self.platform.usual)), _SECRET)
        shown: Document = {TYPE_KEY: self.platform.publish_image_type, **self._read.target}
        shown |= {**self._read.given_lifetime, CRED_ACCOUNT: account}
        body = json.loads(write_json_request(PUBLISH_IMAGE, shown))
        words = json.dumps(body, indent=2, ensure_ascii=False)
        query = "?preflight=true" if self.form.get(_PREFLIGHT) else ""
        uri = f"{api}/{image_uri(self.owner, self.image.appliance_id, self.image.id)}/pimages{query}"
        return " \\\n  ".join(
            (
                f"curl -u {shlex.quote(login)}",
                "-H 'Accept: application/json'",
                "-H 'Content-Type: application/json'",
                f"-d {shlex.quote(words)}",
                shlex.quote(uri),
            )
        )

    @cached_property
    def _read(self) -> _FilledIn:
        target, errors = filled_in(self.platform.target_fields, self.form)
        fields = (*self.platform.attribute_fields, *NAME_TEMPLATE)
        attributes, wrong = filled_in_attributes(fields, self.form)
        if attributes.get(VISIBILITY) and not target.get("publicImage"):
            target.pop("publicImage", None)  # a box that is not ticked says nothing about the visibility
        lifetime, wrong_times = filled_in_attributes(LIFETIME, self.form)
        target, errors = target | attributes, errors | wrong | wrong_times
        account: Document = {}
        if not self.account:
            account, more = filled_in(self.platform.account_fields, self.form, ACCOUNT_PREFIX)
            errors = errors | more
        return _FilledIn(target, account, lifetime, errors)


@dataclass(frozen=True, slots=True)
class _FilledIn:
    """The filled-in fields: the target, the account unless it is a stored one, how long images stay, and the errors."""

    target: Document
    account: Document
    given_lifetime: Document
    errors: dict[str, str]

    @property
    def lifetime(self) -> dict[str, Any]:
        """How long images stay, as a `PublishRequest` has it: with seconds since the epoch."""
        given = self.given_lifetime
        return {name: value.timestamp() if isinstance(value, datetime) else value for name, value in given.items()}


def _draft(visit: Visit, form: Mapping[str, str], *, recall: bool = False) -> Draft:
    """Return a draft for the user.

    It offers the user's own objects; to an administrator who chose an image, those of its owner. If nothing is chosen,
    the newest is. With `recall`, the target is that of the account's last use, except for what is filled in. Raises
    `NotFound` for an image or account of others.
    """
    store = visit.store
    wanted = _image(visit, form["image"]) if form.get("image") else None
    owner = wanted.owner if wanted else visit.user.login
    images = list(store.images.latest(_IMAGES_MAX, owner=owner, state=ImageState.READY))
    if wanted and wanted.id not in {each.id for each in images}:
        images.insert(0, wanted)
    image = wanted or (images[0] if images else None)
    accounts = store.accounts.list(owner)[::-1]
    account = _account(accounts, form.get("account"))
    if recall and account and (last := store.publications.last_of_account(account.id, owner)):
        form = {**_texts(last.target, but=_OF_THE_IMAGE), **form}
    platform = chosen_platform(account.platform if account else form.get("platform", ""))
    return Draft(owner, images, image, accounts, account, installed_platforms(), platform, form)


def _as_before(visit: Visit, id: str) -> dict[str, str]:
    """Return a form filled in like a ticket, without secrets. An image or account that no longer exists is left out.

    Raises `NotFound` if the ticket is missing or belongs to someone else.
    """
    store, number = visit.store, parse_id(id)
    found = store.tickets.get(number) if number is not None else None
    ticket = require_own(found, "there is no such ticket", visit.owner)
    image = own(store.images.get(ticket.image_id), visit.owner)
    form = _texts(ticket.target) | {"platform": ticket.platform}
    form |= _texts({"lineage": ticket.lineage, "older": ticket.older, "keep": ticket.keep})
    if image:
        form["image"] = str(image.id)
        if ticket.account_id and store.accounts.find(image.owner, id=ticket.account_id):
            return form | {"account": str(ticket.account_id)}
    account = _texts(ticket.account)
    return form | {"account": _NOT_STORED} | {f"{ACCOUNT_PREFIX}{name}": value for name, value in account.items()}


def _texts(fields: Mapping[str, object], *, but: str = "") -> dict[str, str]:
    """Return fields as a form sends them: a ticked box is "true", and one that is not ticked is missing."""
    texts = {
        name: "true" if value is True else str(value)
        for name, value in fields.items()
        if name != but and isinstance(value, str | int) and value not in ("", False)
    }
    return texts | {name: "\n".join(lines(value)) for name, value in fields.items() if isinstance(value, list)}


def _image(visit: Visit, id: str) -> Image:
    number = parse_id(id)
    image = visit.store.images.get(number) if number is not None else None
    return require_own(image, "there is no such image", visit.owner)


def _account(accounts: list[StoredAccount], id: str | None) -> StoredAccount | None:
    if id == _NOT_STORED:
        return None
    if not id:
        return accounts[0] if accounts else None
    for each in accounts:
        if str(each.id) == id:
            return each
    raise NotFound("there is no such account")
