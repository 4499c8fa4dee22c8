"""The use cases of tickets: publish, cancel, retry, withdraw. Each commits first and wakes a worker only then."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from publisher.core.asking import Asking, ask
from publisher.core.errors import Conflict, InvalidRequest, PublisherError
from publisher.core.image import Image
from publisher.core.image_attributes import check_min_disk
from publisher.core.name_template import expand, placeholders
from publisher.core.names import check_name
from publisher.core.ticket import Older, Ticket
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.platforms.platform import CRED_ACCOUNT, check_address, check_request, platform_of
from publisher.services.wakeups import Wake
from publisher.services.webhooks import no_signing_secret
from publisher.store import (
    AccountGiven,
    BasisWanted,
    IdempotencyKey,
    NewTicket,
    Store,
    StoredAccount,
    TicketWanted,
    no_image,
)
from publisher.telemetry.tracing import current_traceparent


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """A request to publish one image. Field names in `account`, `secrets`, `target` are those of the wire contract."""

    owner: str
    appliance_id: int
    image_id: int
    platform: str
    account: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    target: dict[str, Any] = field(default_factory=dict)
    account_id: int | None = None
    """The stored account that `account` was taken from, if it was."""
    sealed_secrets: bytes | None = field(default=None, repr=False)
    """The secrets of the stored account, used if the request has none itself."""
    sealed_names: frozenset[str] = frozenset()
    """Names of the elements in `sealed_secrets`."""
    own_elements: frozenset[str] = frozenset()
    """Names of the elements of `account` and `secrets` that the request gave itself."""
    notify: str | None = field(default=None, repr=False)
    """Extra webhook URL for this ticket, in addition to the owner's."""
    expires: float | None = None
    """When the service withdraws the image, in seconds since the epoch."""
    lineage: str | None = None
    keep: int | None = None
    older: str | None = None
    """The lineage that the image belongs to, how many of its images stay, and what happens to older ones."""
    image_in_path: bool = False
    """The request's path names the image, so without the image there is no such path."""

    def using(self, stored: StoredAccount) -> PublishRequest:
        """Return the request with a stored account. The request's own account elements take precedence.

        Raises `InvalidRequest` if the account is of another platform.
        """
        if stored.platform != self.platform:
            raise InvalidRequest(
                f"'{stored.name}' is an account of {stored.platform}, not of {self.platform}", field=CRED_ACCOUNT
            )
        # Some callers send the account back as it was listed: what equals the stored value is not their own.
        own = {name for name, value in self.account.items() if value != stored.fields.get(name)}
        return replace(
            self,
            account=stored.fields | self.account | {"name": stored.name},
            account_id=stored.id,
            own_elements=frozenset(own | set(self.secrets)),
            sealed_secrets=stored.sealed_secrets,
            sealed_names=platform_of(stored.platform).sealed_names,
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """The ticket of a request, and whether this request created it."""

    ticket: Ticket
    new: bool
    image: Image | None = None
    """The image of a new ticket, as it was then."""


def publish(
    store: Store,
    sealer: Sealer,
    request: Callable[[], PublishRequest],
    key: IdempotencyKey | None = None,
    *,
    policy: OutboundPolicy,
    wake: Wake,
    before_waiting: Callable[[], None] = lambda: None,
) -> Asking[Accepted]:
    """Check a request, commit its ticket and wake a worker.

    `before_waiting` is called before hosts that the request names are looked up, which takes half a second at most.

    A request that is sent again with the same key gets the first ticket, whatever has happened to its image since.
    Raises `InvalidRequest` that names what is wrong, `NotFound` if the path names a missing image, `Conflict` if the
    image is not ready or the key belongs to another request, and `TooMany` if too many tickets are waiting.
    """
    try:
        accepted = yield from _commit(store, sealer, request(), key, policy, before_waiting)
    except PublisherError:
        # What has a ticket is not judged again: the account that it names may have been deleted since. Or the same
        # request was sent twice at the same time, and the other one was faster.
        if key and (first := store.idempotency_keys.ticket(key)):
            return Accepted(first, new=False)
        raise
    if accepted.new:
        wake(accepted.ticket.id)
    return accepted


def cancel(store: Store, ticket_id: int, wake: Wake) -> Ticket:
    """Cancel a ticket. If a cloud was touched, a worker cleans up first. Raises `NotFound`, `Conflict`."""
    ticket = store.tickets.request_cancel(ticket_id)
    # A worker that is uploading notices by itself. If there is none, one must come and clean up.
    if not ticket.final:
        wake(ticket_id)
    return ticket


def retry(store: Store, ticket_id: int, wake: Wake) -> Ticket:
    """Queue a failed or cancelled ticket again. Raises `NotFound`, `Conflict`."""
    ticket = store.tickets.retry(ticket_id)
    wake(ticket_id)
    return ticket


def withdraw(store: Store, ticket_id: int, wake: Wake, given: AccountGiven | None = None) -> Ticket:
    """Withdraw what a ticket has published, or cancel a ticket that has not ended. A worker cleans up the cloud.

    The worker signs in with the account that is `given`, or with the ticket's stored one as it is now. Can be repeated.
    Raises `NotFound`, `Conflict`, and `InvalidRequest` if an account must be given, or another one.
    """
    ticket = store.tickets.request_withdrawal(ticket_id, given)
    if not ticket.final:
        wake(ticket_id)
    return ticket


def account_given(sealer: Sealer, request: PublishRequest, policy: OutboundPolicy) -> AccountGiven:
    """Check the account of a request, and return it sealed. Raises `InvalidRequest` that names the element at fault."""
    stored = None if request.secrets else request.sealed_secrets
    given = request.secrets if stored is None else request.sealed_names
    check_request(request.platform, request.account, given, request.target)
    check_named(policy, platform_of(request.platform).account_addresses(request.account))
    return AccountGiven(request.account, sealer.seal(request.secrets) if stored is None else stored)


def _commit(
    store: Store,
    sealer: Sealer,
    request: PublishRequest,
    key: IdempotencyKey | None,
    policy: OutboundPolicy,
    before_waiting: Callable[[], None],
) -> Asking[Accepted]:
    found = yield from checked(store, sealer, request, key, policy, before_waiting)
    if isinstance(found, Ticket):
        return Accepted(found, new=False)
    new, image = found
    ticket = yield from ask(store.new_tickets.create_all, TicketWanted(new, key, store.actor))
    return Accepted(ticket, new=True, image=image)


def checked(
    store: Store,
    sealer: Sealer,
    request: PublishRequest,
    key: IdempotencyKey | None,
    policy: OutboundPolicy,
    before_waiting: Callable[[], None],
) -> Asking[Ticket | tuple[NewTicket, Image]]:
    """Check a request, and return the ticket that it would create, with its image. Raises what `publish` raises.

    Returns the first ticket if the request was sent before with the same key.
    """
    wanted = BasisWanted(request.owner, request.appliance_id, request.image_id, key)
    basis = yield from ask(store.new_tickets.bases, wanted)
    if key and basis.key_known and (first := store.idempotency_keys.ticket(key)):
        return first
    image = _ready(request, basis.image)
    stored = None if request.secrets else request.sealed_secrets
    # Sealed secrets cannot be read here. They were checked when the account was stored.
    given = request.secrets if stored is None else request.sealed_names
    target = _check_named_target(store, request, image, given)
    platform = platform_of(request.platform)
    platform.check_image(f"image {image.id} ({image.name})", image.glance_objection)
    check_min_disk(target, image.disk_gib)
    if request.notify:
        check_address("notify", request.notify)
        if not basis.signs:
            raise no_signing_secret(request.owner, "notify")
    older = _older(request)
    changes_older = older not in (None, Older.LEAVE)
    for name, signs_in in (("expires", request.expires is not None), ("older", changes_older)):
        if signs_in and stored is None:
            raise InvalidRequest(
                "needs a stored account, without secrets in the request: the service signs in again to change or"
                " withdraw an image",
                field=name,
            )
    addresses = platform.account_addresses(request.account) | {"notify": request.notify}
    check_named(policy, addresses, before_waiting=before_waiting)
    new = NewTicket(
        owner=request.owner,
        appliance_id=request.appliance_id,
        image_id=image.id,
        image_size=image.size,
        platform=request.platform,
        account_id=request.account_id,
        account=request.account,
        own_elements=request.own_elements,
        sealed_secrets=sealer.seal(request.secrets) if stored is None else stored,
        target=target,
        name=target["displayName"],
        notify_url=request.notify,
        expires=request.expires,
        lineage=request.lineage,
        keep=request.keep,
        older=older,
        request_id=store.actor.request_id if store.actor else None,
        traceparent=current_traceparent(),
    )
    return new, image


def _older(request: PublishRequest) -> Older | None:
    """Return what happens to older images of the request's lineage. Raises `InvalidRequest` for a contradiction."""
    if request.lineage is None:
        for name, given in (("keep", request.keep), ("older", request.older)):
            if given is not None:
                raise InvalidRequest("is used only with a lineage", field=name)
        return None
    check_name(request.lineage, "lineage")
    offered = [each for each in Older if each in (Older.LEAVE, Older.WITHDRAW, *platform_of(request.platform).older)]
    if request.older not in (None, *offered):
        words = (
            f"'{request.platform}' cannot {request.older} older images"
            if request.older in tuple(Older)
            else (f"'{request.older}' is unknown")
        )
        raise InvalidRequest(f"{words}; use {', '.join(offered[:-1])} or {offered[-1]}", field="older")
    older = Older(request.older or Older.LEAVE)
    if older is Older.WITHDRAW and request.keep is None:
        raise InvalidRequest("is needed: the number of images of the lineage that stay published", field="keep")
    if older is not Older.WITHDRAW and request.keep is not None:
        raise InvalidRequest(f"is used only if older is {Older.WITHDRAW}", field="keep")
    return older


def _check_named_target(store: Store, request: PublishRequest, image: Image, given: Collection[str]) -> dict[str, Any]:
    """Check a request, and return its target with the image's name in the cloud. Raises `InvalidRequest`.

    If no name is given, a template makes it: the request's own, or else the account's. Without a template, it is the
    image's own name. It must be acceptable to the cloud, too.
    """
    target = dict(request.target)
    field, template = "nameTemplate", target.get("nameTemplate")
    if not template and not target.get("displayName"):
        field, template = f"{CRED_ACCOUNT}.nameTemplate", request.account.get("nameTemplate")
    if not template:
        target["displayName"] = str(target.get("displayName") or image.name)
        check_request(request.platform, request.account, given, target)
        return target
    # First as it was sent: a template that cannot be expanded is refused.
    check_request(request.platform, request.account, given, target)
    target.pop("nameTemplate", None)
    target["displayName"] = expand(str(template), _placeholder_values(store, image, placeholders(str(template), field)))
    try:
        platform_of(request.platform).check_target(request.account, target)
    except InvalidRequest as error:
        words = str(error).removeprefix("displayName: ")
        raise InvalidRequest(f"makes a name that {words}", field=field) from None
    return target


def _placeholder_values(store: Store, image: Image, wanted: Collection[str]) -> dict[str, str]:
    """Return what the placeholders of a name template become."""
    now = datetime.now(UTC)
    values = {
        "name": image.name,
        "id": str(image.id),
        "revision": str(image.revision),
        "date": f"{now:%Y-%m-%d}",
        "time": f"{now:%H%M%S}",
    }
    if {"appliance", "version"} & set(wanted):
        appliance = store.appliances.get(image.owner, image.appliance_id)
        values |= {"appliance": appliance.name, "version": appliance.version}
    return values


def _ready(request: PublishRequest, image: Image | None) -> Image:
    """Return the image of a request. Raises `InvalidRequest` or `NotFound` if there is none, `Conflict` if it is not
    ready."""
    if image is None:
        missing = no_image(request.owner, request.appliance_id, request.image_id)
        raise missing if request.image_in_path else InvalidRequest(str(missing), field="imageUri")
    if not image.ready:
        raise Conflict(f"image {image.id} is not ready, but {image.state}; see its status")
    return image
