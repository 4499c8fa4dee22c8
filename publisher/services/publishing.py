"""The use cases of tickets: publish, cancel, retry. Each commits first and wakes a worker only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from publisher.core.asking import Asking, ask
from publisher.core.errors import Conflict, InvalidRequest, PublisherError
from publisher.core.image import Image
from publisher.core.ticket import Ticket
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy, check_named
from publisher.platforms.platform import CRED_ACCOUNT, check_address, check_request, platform_of
from publisher.services.wakeups import Wake
from publisher.services.webhooks import no_signing_secret
from publisher.store import BasisWanted, IdempotencyKey, NewTicket, Store, StoredAccount, TicketWanted, no_image
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
    # If no name is given, the image's own name must be acceptable to the cloud, too.
    target = request.target | {"displayName": str(request.target.get("displayName") or image.name)}
    check_request(request.platform, request.account, given, target)
    platform = platform_of(request.platform)
    platform.check_image(f"image {image.id} ({image.name})", image.glance_objection)
    if request.notify:
        check_address("notify", request.notify)
        if not basis.signs:
            raise no_signing_secret(request.owner, "notify")
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
        request_id=store.actor.request_id if store.actor else None,
        traceparent=current_traceparent(),
    )
    return new, image


def _ready(request: PublishRequest, image: Image | None) -> Image:
    """Return the image of a request. Raises `InvalidRequest` or `NotFound` if there is none, `Conflict` if it is not
    ready."""
    if image is None:
        missing = no_image(request.owner, request.appliance_id, request.image_id)
        raise missing if request.image_in_path else InvalidRequest(str(missing), field="imageUri")
    if not image.ready:
        raise Conflict(f"image {image.id} is not ready, but {image.state}; see its status")
    return image
