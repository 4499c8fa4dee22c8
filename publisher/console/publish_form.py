"""The form that publishes an image: the choices, what was filled in, and the publish request that it makes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from publisher.console.rendering import (
    ACCOUNT_PREFIX,
    Element,
    account_elements,
    field_errors,
    filled_in,
    installed_platforms,
    target_elements,
)
from publisher.core.errors import InvalidRequest, NotFound, own, require_own
from publisher.core.image import Image, ImageState
from publisher.core.ticket import Ticket
from publisher.core.uris import account_uri, image_uri, parse_id
from publisher.intake.wire.writing import write_document
from publisher.platforms.platform import CRED_ACCOUNT, PUBLISH_IMAGE, TYPE_KEY, Document, Platform, find_platform
from publisher.services.publishing import PublishRequest
from publisher.store import Store
from publisher.store.accounts import StoredAccount
from publisher.web.negotiation import Format

NOT_STORED = "other"
"""The choice of an account that is filled in here and not stored."""

_FIELDS = {"imageUri": "image", CRED_ACCOUNT: "account", f"{CRED_ACCOUNT}.targetPlatform.name": "platform"}
"""The form's names for fields that errors name differently."""

_OF_THE_IMAGE = "displayName"
"""The field that is not recalled, because another image has another name."""
_IMAGES_MAX = 200
_SECRET = "CLOUD-PASSWORD"  # noqa: S105  # what stands for one


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
        return target_elements(self.platform)

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

    def request(self) -> PublishRequest:
        """Return the publish request. Raises `InvalidRequest`."""
        if self.image is None:
            raise InvalidRequest("choose the image to publish", field="imageUri")
        account, secrets = self.platform.account_parts(self._read.account)
        request = PublishRequest(
            owner=self.owner,
            appliance_id=self.image.appliance_id,
            image_id=self.image.id,
            platform=self.platform.name,
            account=account,
            secrets=secrets,
            target=self._read.target,
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
            asked = [each for each in self.account_elements if each.kind == "password" and each.required]
            hidden = self.platform.secret_names
            account |= {name: value for name, value in self._read.account.items() if name not in hidden}
            account |= {each.name.removeprefix(ACCOUNT_PREFIX): _SECRET for each in asked}
        shown: Document = {TYPE_KEY: self.platform.publish_image_type, **self._read.target, CRED_ACCOUNT: account}
        body = json.loads(write_document(Format.JSON, PUBLISH_IMAGE, shown, request=True))
        words = json.dumps(body, indent=2, ensure_ascii=False)
        uri = f"{api}/{image_uri(self.owner, self.image.appliance_id, self.image.id)}/pimages"
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
        account: Document = {}
        if not self.account:
            account, more = filled_in(self.platform.account_fields, self.form, ACCOUNT_PREFIX)
            errors = errors | more
        return _FilledIn(target, account, errors)


@dataclass(frozen=True, slots=True)
class _FilledIn:
    """The filled-in fields: the target, the account unless it is a stored one, and the errors in both."""

    target: Document
    account: Document
    errors: dict[str, str]


def draft(store: Store, login: str, visible_to: str | None, form: Mapping[str, str], *, recall: bool = False) -> Draft:
    """Return a draft for a user.

    It offers the user's own objects or, if `visible_to` is None, those of the image's owner. If nothing is chosen, the
    newest is. With `recall`, the target is that of the account's last use, except for what is filled in. Raises
    `NotFound` for an image or account of others.
    """
    wanted = _image(store, visible_to, form["image"]) if form.get("image") else None
    owner = wanted.owner if wanted else login
    images = list(store.images.latest(_IMAGES_MAX, owner=owner, state=ImageState.READY))
    if wanted and wanted.id not in {each.id for each in images}:
        images.insert(0, wanted)
    image = wanted or (images[0] if images else None)
    accounts = store.accounts.list(owner)[::-1]
    account = _account(accounts, form.get("account"))
    platforms = installed_platforms()
    if recall and account and (last := store.publications.last_of_account(account.id, owner)):
        form = {**_texts(last.target, but=_OF_THE_IMAGE), **form}
    named = find_platform(account.platform if account else form.get("platform", ""))
    return Draft(owner, images, image, accounts, account, platforms, named or platforms[0], form)


def as_before(store: Store, visible_to: str | None, ticket: Ticket) -> dict[str, str]:
    """Return a form filled in like a ticket, without secrets. An image or account that no longer exists is left out."""
    image = own(store.images.get(ticket.image_id), visible_to)
    form = _texts(ticket.target) | {"platform": ticket.platform}
    if image:
        form["image"] = str(image.id)
        if ticket.account_id and store.accounts.find(image.owner, id=ticket.account_id):
            return form | {"account": str(ticket.account_id)}
    account = _texts(ticket.account)
    return form | {"account": NOT_STORED} | {f"{ACCOUNT_PREFIX}{name}": value for name, value in account.items()}


def _texts(fields: Mapping[str, object], *, but: str = "") -> dict[str, str]:
    """Return fields as a form sends them: a ticked box is "true", and one that is not ticked is missing."""
    return {
        name: "true" if value is True else str(value)
        for name, value in fields.items()
        if name != but and isinstance(value, str | int) and value not in ("", False)
    }


def _image(store: Store, visible_to: str | None, id: str) -> Image:
    number = parse_id(id)
    image = store.images.get(number) if number is not None else None
    return require_own(image, "there is no such image", visible_to)


def _account(accounts: list[StoredAccount], id: str | None) -> StoredAccount | None:
    if id == NOT_STORED:
        return None
    if not id:
        return accounts[0] if accounts else None
    for each in accounts:
        if str(each.id) == id:
            return each
    raise NotFound("there is no such account")
