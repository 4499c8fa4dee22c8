"""Accepting a publish request: checked, committed as a ticket, and only then is a worker woken."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from publisher.core.errors import Conflict, InvalidRequest, QueueUnavailable
from publisher.core.image import Image
from publisher.core.ticket import Ticket
from publisher.core.vault import Sealer
from publisher.outbound.policy import OutboundPolicy
from publisher.outbound.precheck import check_named
from publisher.platforms.platform import SECRETS_GO_BY, addresses, check_address, check_image, check_request
from publisher.services.webhooks import check_signing
from publisher.store import Store
from publisher.store.idempotency import IdempotencyKey
from publisher.telemetry.logs import current_request_id
from publisher.telemetry.tracing import current_traceparent

logger = logging.getLogger(__name__)


class Waker(Protocol):
    def send(self, ticket_id: int) -> None:
        """Raises `QueueUnavailable`."""


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
    """Those of the stored account, used where the request has none itself."""
    sealed_names: frozenset[str] = frozenset()
    """What is in `sealed_secrets`."""
    own_elements: frozenset[str] = frozenset()
    """Of `account` and `secrets`, what the request gave itself and does not have from the stored account."""
    notify: str | None = field(default=None, repr=False)
    """Where the end of it is told to, besides to where all of its owner's are."""


def accept(
    store: Store,
    sealer: Sealer,
    request: PublishRequest,
    idempotency_key: IdempotencyKey | None = None,
    *,
    policy: OutboundPolicy,
) -> Ticket:
    """Check a request and commit its ticket.

    Raises `InvalidRequest` that names what is wrong, `Conflict` for an image that is not ready, `KeyTaken` where
    another ticket has the key already, `TooMany` where too many tickets wait already.
    """
    image = _image(store, request)
    stored = None if request.secrets else request.sealed_secrets
    # What is sealed cannot be looked at here; that it is there was checked when the account was stored.
    secrets = request.secrets if stored is None else dict.fromkeys(request.sealed_names, "sealed")
    # The image's own name, where no other is given, has to be one that the cloud takes, too.
    name = str(request.target.get("displayName") or image.name)
    check_request(request.platform, request.account, secrets, request.target | {"displayName": name})
    check_image(request.platform, f"image {image.id} ({image.name})", image.glance_objection)
    if request.notify:
        check_address("notify", request.notify)
        check_signing(store, request.owner, "notify")
    check_named(policy, addresses(request.platform, request.account) | {"notify": request.notify})
    store.tickets.check_room(request.owner)
    return store.tickets.create(
        owner=request.owner,
        appliance_id=request.appliance_id,
        image_id=image.id,
        image_size=image.size,
        platform=request.platform,
        account_id=request.account_id,
        account=request.account,
        own_elements=request.own_elements,
        sealed_secrets=sealer.seal(request.secrets) if stored is None else stored,
        target=request.target | {"displayName": name},
        name=name,
        notify_url=request.notify,
        idempotency_key=idempotency_key,
        request_id=current_request_id(),
        traceparent=current_traceparent(),
    )


def check_account(platform: str, account: dict[str, Any], secrets: dict[str, str], *, policy: OutboundPolicy) -> None:
    """Check an account that is to be stored. Raises `InvalidRequest` that names the element of it at fault."""
    try:
        # The project is told by each request, not by the account: it is not what is missing here.
        check_request(platform, account, secrets, {"tenantName": "any"})
        check_named(policy, addresses(platform, account))
    except InvalidRequest as error:
        at_fault = error.field or ""
        words = str(error).removeprefix(f"{at_fault}: ")
        raise InvalidRequest(words, field=at_fault.removeprefix("credAccount.")) from None


def check_kept(present: Mapping[str, Any], fields: Mapping[str, Any], secrets: Collection[str]) -> None:
    """Check a change of a stored account that has no secrets with it: those that are kept are not sent elsewhere, nor
    for another login. `fields` are those that are given, `secrets` the names of those there may be.

    Raises `InvalidRequest` that names the secret which is needed again.
    """
    if any(name in fields and _lines(fields[name]) != _lines(present.get(name)) for name in SECRETS_GO_BY):
        name = "password" if "password" in secrets else min(secrets, default="password")
        raise InvalidRequest("is needed again where the address or the login changes", field=name)


def wake(store: Store, waker: Waker, ticket_id: int) -> bool:
    """Wake a worker for an accepted ticket. With the broker away that is left to the reconciler; False then."""
    try:
        waker.send(ticket_id)
    except QueueUnavailable as error:
        logger.warning("ticket %d is accepted, but no worker was woken: %s", ticket_id, error)
        store.tickets.woken(ticket_id, sent=False)
        return False
    return True


def _lines(value: object) -> list[str]:
    """None is as good as empty, and forms have line ends of their own."""
    return [line.strip() for line in str(value or "").strip().splitlines()]


def _image(store: Store, request: PublishRequest) -> Image:
    image = store.images.get(request.image_id)
    # Another user's image is as good as none: its id must not be told from one that does not exist.
    if image is None or (image.owner, image.appliance_id) != (request.owner, request.appliance_id):
        raise InvalidRequest(
            f"appliance {request.appliance_id} of {request.owner} has no image {request.image_id}", field="imageUri"
        )
    if not image.ready:
        raise Conflict(f"image {image.id} is not ready, but {image.state}; its status tells more")
    return image
