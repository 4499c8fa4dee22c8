"""Registrations of images: callers request them, the reconciler wakes workers, and workers do them under a lease.

As with tickets, a claim gives a new fencing token, each write of a worker names it, and the database's clock decides
when a lease has expired. A cancel ends a registration at once: its worker notices at its next write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, LeaseLost
from publisher.core.image import Checksums, Digests, Image, ImageState, image_uri
from publisher.core.ticket import DONE_WITH_IMAGE
from publisher.store.appliances import ensure_appliance
from publisher.store.database import audit_change, db_now, images, reading, tickets, writing
from publisher.store.images import IMAGE_COLUMNS, image_of_row, no_image
from publisher.store.ticket_rows import wake_delay

_UNREAD: dict[str, Any] = {
    "disk_format": "",
    "format": "",
    "size": 0,
    "virtual_size": 0,
    "md5": "",
    "sha256": "",
    "sha512": "",
    "warning": None,
    "glance_objection": None,
}
"""Values for a file that nobody has read yet."""
_UNEXPIRED = images.c.lease_until >= db_now()
IMAGE_DUE = and_(
    images.c.wake_at <= db_now(),
    or_(
        and_(images.c.state == ImageState.QUEUED, images.c.not_before <= db_now()),
        and_(images.c.state == ImageState.FETCHING, images.c.lease_until < db_now()),
    ),
)
"""A worker should register the image, but none does."""


@dataclass(frozen=True, slots=True)
class Registration:
    """An image that this worker registers, and the fencing token that proves it."""

    image: Image
    token: int


class Registrations:
    """Images that workers register."""

    def __init__(self, engine: Engine, *, wake_again_seconds: float) -> None:
        self._engine = engine
        self._wake_again_seconds = wake_again_seconds

    def begin(
        self,
        *,
        owner: str,
        appliance_id: int,
        name: str,
        wanted_format: str | None,
        source: str,
        expected: Checksums = (),
    ) -> Image:
        """Commit an image for a worker to fetch. Raises `Conflict` if the owner is unknown."""
        row = _UNREAD | {
            "owner": owner,
            "appliance_id": appliance_id,
            "name": name,
            "wanted_format": wanted_format,
            **_wanted(expected),
            "source": source,
            "location": "",
            "state": ImageState.QUEUED,
            "created": db_now(),
            "modified": db_now(),
            "wake_at": db_now() + self._wake_again_seconds,
        }
        try:
            with writing(self._engine) as connection:
                ensure_appliance(connection, owner, appliance_id)
                begun = image_of_row(connection.execute(insert(images).values(row).returning(*IMAGE_COLUMNS)).one())
                audit_change(
                    connection, "image.create", image_uri(owner, appliance_id, begun.id), detail=f"{name!r}, fetched"
                )
                return begun
        except IntegrityError:
            raise Conflict(f"there is no user '{owner}'") from None

    def again(self, owner: str, appliance_id: int, id: int) -> Image:
        """Queue an image to be fetched again from its source.

        Raises `NotFound`, or `Conflict` if it was not fetched, is being registered, or is needed by an unfinished
        ticket.
        """
        mine = images.c.id == id, images.c.owner == owner, images.c.appliance_id == appliance_id
        with writing(self._engine) as connection:
            row = connection.execute(select(*IMAGE_COLUMNS).where(*mine).with_for_update()).one_or_none()
            if row is None:
                raise no_image(owner, appliance_id, id)
            image = image_of_row(row)
            if image.source is None:
                raise Conflict(f"image {id} was not fetched from a location, so it cannot be fetched again")
            if not image.final:
                raise Conflict(f"image {id} is being registered; cancel that first")
            needed = select(tickets.c.id).where(tickets.c.image_id == id, tickets.c.state.not_in(DONE_WITH_IMAGE))
            if (ticket := connection.execute(needed.order_by(tickets.c.id).limit(1)).scalar()) is not None:
                raise Conflict(f"image {id} is needed by ticket {ticket}, which has not ended; cancel it first")
            audit_change(connection, "image.generate", image_uri(owner, appliance_id, id))
            # A ready image had these checksums. Fetched again, it may be another file, so they no longer apply.
            forgotten = _wanted(()) if image.ready else {}
            changed = update(images).where(images.c.id == id).returning(*IMAGE_COLUMNS)
            return image_of_row(
                connection.execute(
                    changed.values(
                        state=ImageState.QUEUED,
                        revision=images.c.revision + 1,
                        modified=db_now(),
                        registered=None,
                        error=None,
                        sent=0,
                        total=0,
                        attempt=0,
                        not_before=0.0,
                        lease_until=0.0,
                        worker=None,
                        wake_at=db_now() + self._wake_again_seconds,
                        wakes=0,
                        **forgotten,
                    )
                ).one()
            )

    def cancel(self, owner: str, appliance_id: int, id: int) -> None:
        """Cancel a registration. Raises `NotFound`, or `Conflict` if it has ended."""
        mine = images.c.id == id, images.c.owner == owner, images.c.appliance_id == appliance_id
        going_on = images.c.state.in_([ImageState.QUEUED, ImageState.FETCHING])
        with writing(self._engine) as connection:
            ended = update(images).where(*mine, going_on).values(state=ImageState.CANCELLED, modified=db_now())
            if connection.execute(ended).rowcount == 1:
                audit_change(connection, "image.cancel", image_uri(owner, appliance_id, id))
                return
            state = connection.execute(select(images.c.state).where(*mine)).scalar()
        if state is None:
            raise no_image(owner, appliance_id, id)
        raise Conflict(f"the registration of image {id} has ended: it is {state}")

    # For the reconciler -------------------------------------------------------------------------------------------

    def due(self, limit: int = 100) -> Sequence[int]:
        """Return the images to wake now: those that a worker should register but none does. Oldest first."""
        query = select(images.c.id).where(IMAGE_DUE).order_by(images.c.wake_at, images.c.id).limit(limit)
        with reading(self._engine) as connection:
            return connection.execute(query).scalars().all()

    def woken(self, *ids: int, sent: bool) -> None:
        """Record that workers were woken for images, or could not be."""
        delay = wake_delay(images, self._wake_again_seconds)
        values = (
            {"wake_at": db_now() + delay, "wakes": images.c.wakes + 1} if sent else {"wake_at": db_now(), "wakes": 0}
        )
        with writing(self._engine, durable=False) as connection:
            connection.execute(update(images).where(images.c.id.in_(ids)).values(values))

    # For a worker -------------------------------------------------------------------------------------------------

    def claim(self, id: int, worker: str, lease_seconds: float) -> Registration | None:
        """Claim an image that is queued and due, or whose worker's lease has expired; None if there is none."""
        free = or_(
            and_(images.c.state == ImageState.QUEUED, images.c.not_before <= db_now()),
            and_(images.c.state == ImageState.FETCHING, images.c.lease_until < db_now()),
        )
        claimed = (
            update(images)
            .where(images.c.id == id, free)
            .values(
                state=ImageState.FETCHING,
                attempt=images.c.attempt + 1,
                sent=0,
                total=0,
                worker=worker,
                lease_token=images.c.lease_token + 1,
                lease_until=db_now() + lease_seconds,
                wake_at=db_now() + lease_seconds,
                wakes=0,
                modified=db_now(),
            )
            .returning(*IMAGE_COLUMNS, images.c.lease_token)
        )
        with writing(self._engine, durable=False) as connection:
            row = connection.execute(claimed).one_or_none()
        if row is None:
            return None
        return Registration(image_of_row(row), row.lease_token)

    def renew(self, claim: Registration, lease_seconds: float, *, sent: int, total: int) -> None:
        """Write the progress and renew the lease. Raises `LeaseLost` if it has expired, also after a cancel."""
        until = db_now() + lease_seconds
        self._write(claim, _UNEXPIRED, sent=sent, total=total, lease_until=until, wake_at=until)

    def give_up(self, claim: Registration) -> None:
        """Let any worker claim the image at once, before the lease expires.

        Raises `LeaseLost` if the image was claimed already or its registration has ended.
        """
        self._write(claim, lease_until=0.0, wake_at=db_now(), wakes=0)

    def record_location(self, claim: Registration, location: str) -> None:
        """Record where the file will be, before it is there. Raises `LeaseLost`."""
        self._write(claim, _UNEXPIRED, location=location, durable=True)

    def ready(
        self,
        claim: Registration,
        *,
        format: str,
        disk_format: str,
        virtual_size: int,
        digests: Digests,
        warning: str | None = None,
        glance_objection: str | None = None,
    ) -> None:
        """Record that the image is ready. Raises `LeaseLost`."""
        self._write(
            claim,
            durable=True,
            state=ImageState.READY,
            format=format,
            disk_format=disk_format,
            virtual_size=virtual_size,
            size=digests.size,
            md5=digests.md5,
            sha256=digests.sha256,
            sha512=digests.sha512,
            warning=warning,
            glance_objection=glance_objection,
            sent=digests.size,
            total=digests.size,
            error=None,
            modified=db_now(),
            registered=db_now(),
        )

    def failed(self, claim: Registration, error: str) -> None:
        """Record that the registration failed. Raises `LeaseLost`."""
        self._write(claim, state=ImageState.FAILED, error=error, modified=db_now())

    def retry(self, claim: Registration, *, delay_seconds: float, error: str) -> None:
        """Hand the image back for a retry after a delay. Raises `LeaseLost`."""
        self._requeue(claim, delay_seconds, error=error)

    def release(self, claim: Registration) -> None:
        """Hand the image back at once, without counting the attempt. Raises `LeaseLost`."""
        self._requeue(claim, 0.0, attempt=images.c.attempt - 1)

    def _requeue(self, claim: Registration, delay_seconds: float, **values: Any) -> None:
        due = db_now() + delay_seconds
        self._write(
            claim, state=ImageState.QUEUED, not_before=due, wake_at=due, wakes=0, lease_until=0.0, worker=None,
            modified=db_now(), **values,
        )  # fmt: skip

    def _write(self, claim: Registration, *guards: ColumnElement[bool], durable: bool = False, **values: Any) -> None:
        held = images.c.state == ImageState.FETCHING, images.c.lease_token == claim.token, *guards
        with writing(self._engine, durable=durable) as connection:
            written = update(images).where(images.c.id == claim.image.id, *held).values(values)
            if connection.execute(written).rowcount != 1:
                raise LeaseLost


def _wanted(expected: Checksums) -> dict[str, str | None]:
    values = {each.algorithm: each.value for each in expected}
    return {"wanted_md5": values.get("md5"), "wanted_sha256": values.get("sha256")}
