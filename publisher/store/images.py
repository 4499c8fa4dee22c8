"""The catalog of registered images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Engine, Row, case, delete, func, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict, NotFound, require_own
from publisher.core.image import DISK_FORMATS, Digests, Image, ImageState, formats, full_name, image_uri, target_format
from publisher.core.listing import ListField, ListFieldKind, Listing, Page
from publisher.core.ticket import DONE_WITH_IMAGE
from publisher.core.uris import parse_id
from publisher.store.appliances import ensure_appliance
from publisher.store.database import audit_change, db_now, images, reading, tickets, writing
from publisher.store.list_queries import Fields, select_page
from publisher.store.prepared import Prepared, is_one_of

IMAGE_COLUMNS = [images.c[each.name] for each in fields(Image)]
_NAMES = [each.name for each in IMAGE_COLUMNS]

# The same as `Image.reported_format`.
_STORED = func.coalesce(func.nullif(images.c.format, ""), images.c.wanted_format, "raw")
_FORMAT = case({old: new for old in DISK_FORMATS if (new := full_name(old)) != old}, value=_STORED, else_=_STORED)
_TARGET = case({each: target_format(full_name(each)) for each in {*formats(), *DISK_FORMATS}}, value=_STORED)
_FIELDS: Fields = {
    "dbId": ListField(images.c.id, ListFieldKind.NUMBER),
    "created": ListField(images.c.created, ListFieldKind.TIME),
    "lastModified": ListField(images.c.modified, ListFieldKind.TIME),
    "name": ListField(images.c.name),
    "size": ListField(images.c.size, ListFieldKind.NUMBER),
    "fileSize": ListField(images.c.size, ListFieldKind.NUMBER),
    "vmDiskSize": ListField(images.c.virtual_size, ListFieldKind.NUMBER),
    "sha256sum": ListField(images.c.sha256),
    "revision": ListField(images.c.revision, ListFieldKind.NUMBER),
    "status.complete": ListField(images.c.state == ImageState.READY, ListFieldKind.BOOLEAN),
    "format.name": ListField(_FORMAT, ListFieldKind.NAME),
    "targetFormat.name": ListField(_TARGET, ListFieldKind.NAME),
    "targetFormat.format.name": ListField(_FORMAT, ListFieldKind.NAME),
}


class Images:
    """Registered images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        *,
        owner: str,
        appliance_id: int,
        name: str,
        format: str,
        disk_format: str,
        virtual_size: int,
        digests: Digests,
        location: str,
        warning: str | None = None,
        glance_objection: str | None = None,
        id: int | None = None,
    ) -> Image:
        """Add a registered image, and its appliance if that is missing.

        Raises `Conflict` if the id is taken or the owner unknown.
        """
        row: dict[str, Any] = {
            "owner": owner,
            "appliance_id": appliance_id,
            "name": name,
            "format": format,
            "disk_format": disk_format,
            "size": digests.size,
            "virtual_size": virtual_size,
            "md5": digests.md5,
            "sha256": digests.sha256,
            "sha512": digests.sha512,
            "location": location,
            "warning": warning,
            "glance_objection": glance_objection,
            "created": db_now(),
            "modified": db_now(),
            "registered": db_now(),
            "sent": digests.size,
            "total": digests.size,
        } | ({} if id is None else {"id": id})
        try:
            with writing(self._engine) as connection:
                ensure_appliance(connection, owner, appliance_id)
                added = image_of_row(connection.execute(insert(images).values(row).returning(*IMAGE_COLUMNS)).one())
                audit_change(
                    connection, "image.create", image_uri(owner, appliance_id, added.id), detail=f"{name!r}, {format}"
                )
                if id is not None and self._engine.dialect.name == "postgresql":
                    # The sequence does not know ids that were given explicitly: move it past them. Never back: an id
                    # that belonged to a deleted image must not name another one.
                    past = text("SELECT setval('images_id_seq', greatest(last_value, :id)) FROM images_id_seq")
                    connection.execute(past, {"id": id})
                return added
        except IntegrityError as error:
            if id is not None and self.get(id):
                raise Conflict(f"there is an image {id} already; leave out --id to use the next free number") from None
            raise Conflict(f"there is no user '{owner}'") from error

    def get(self, id: int) -> Image | None:
        with reading(self._engine) as connection:
            row = connection.execute(select(*IMAGE_COLUMNS).where(images.c.id == id)).one_or_none()
        return image_of_row(row) if row else None

    def has_file(self, location: str) -> bool:
        """Return whether an image has its file there, under the image root."""
        with reading(self._engine) as connection:
            return bool(connection.execute(select(images.c.id).where(images.c.location == location).limit(1)).scalar())

    def find(self, owner: str, appliance_id: int, id: int) -> Image:
        """Return an image. Raises `NotFound` if it is missing or belongs to someone else."""
        return require_own(self.get(id), _missing(owner, appliance_id, id), owner, appliance_id=appliance_id)

    def list(self, *, owner: str | None = None, appliance_id: int | None = None, id: int | None = None) -> list[Image]:
        query = select(*IMAGE_COLUMNS).order_by(images.c.id)
        if owner is not None:
            query = query.where(images.c.owner == owner)
        if appliance_id is not None:
            query = query.where(images.c.appliance_id == appliance_id)
        if id is not None:
            query = query.where(images.c.id == id)
        with reading(self._engine) as connection:
            return [image_of_row(row) for row in connection.execute(query)]

    def page(self, owner: str, appliance_id: int, listing: Listing) -> Page[Image]:
        """Return the wanted part of an appliance's images. Raises `InvalidRequest`."""
        query = select(*IMAGE_COLUMNS).where(images.c.owner == owner, images.c.appliance_id == appliance_id)
        with reading(self._engine) as connection:
            found = select_page(connection, query, _FIELDS, listing)
        return Page(found.total, [image_of_row(row) for row in found.items])

    def latest(
        self,
        count: int,
        *,
        before: int | None = None,
        owner: str | None = None,
        text: str = "",
        state: ImageState | None = None,
    ) -> Sequence[Image]:
        """Return images, newest first: only those with an id below `before`, of this owner, in this state, and with
        `text` in the name (in upper or lower case) or as the id."""
        query = select(*IMAGE_COLUMNS).order_by(images.c.id.desc()).limit(count)
        if before is not None:
            query = query.where(images.c.id < before)
        if owner is not None:
            query = query.where(images.c.owner == owner)
        if text:
            named = images.c.name.icontains(text, autoescape=True)
            id = parse_id(text)
            query = query.where(named if id is None else or_(named, images.c.id == id))
        if state is not None:
            query = query.where(images.c.state == state)
        with reading(self._engine) as connection:
            return [image_of_row(row) for row in connection.execute(query)]

    def delete(self, owner: str, appliance_id: int, id: int | None = None) -> Sequence[Image]:
        """Delete an image, or all images of an appliance: all or none. Return those whose file no other image has.

        Raises `NotFound`, or `Conflict` if one is still being registered or is needed by an unfinished ticket.
        """
        theirs = [images.c.owner == owner, images.c.appliance_id == appliance_id]
        if id is not None:
            theirs.append(images.c.id == id)
        with writing(self._engine) as connection:
            # Locked until the end: creating a ticket for one of them waits (see `hold_ready_images`) and finds it gone.
            query = select(*IMAGE_COLUMNS).where(*theirs).order_by(images.c.id).with_for_update()
            found = [image_of_row(row) for row in connection.execute(query)]
            if id is not None and not found:
                raise no_image(owner, appliance_id, id)
            others = "" if id is not None else ". None was deleted"
            for image in found:
                if not image.final:
                    raise Conflict(f"image {image.id} is still being registered; cancel that first{others}")
            ids = select(images.c.id).where(*theirs)
            needed = select(tickets.c.id, tickets.c.image_id).where(
                tickets.c.image_id.in_(ids), tickets.c.state.not_in(DONE_WITH_IMAGE)
            )
            if first := connection.execute(needed.order_by(tickets.c.id).limit(1)).one_or_none():
                raise Conflict(
                    f"image {first.image_id} is needed by ticket {first.id}, which has not ended; cancel it"
                    f" first{others}"
                )
            # By id: an image that was added since has not been checked.
            for image in found:
                connection.execute(delete(images).where(images.c.id == image.id))
            audit_change(connection, "image.delete", *(image_uri(owner, appliance_id, image.id) for image in found))
            locations = {image.location for image in found}
            shared = set(
                connection.execute(select(images.c.location).where(images.c.location.in_(locations))).scalars()
            )
        return [image for image in found if image.location not in shared]

    def use_key(self, image: Image) -> bool:
        """Use up the one-time key of an image as it was read. Return False if the key was used already."""
        used = (
            update(images)
            .where(images.c.id == image.id, images.c.downloads == image.downloads, images.c.state == ImageState.READY)
            .values(downloads=images.c.downloads + 1, modified=db_now())
        )
        with writing(self._engine) as connection:
            return connection.execute(used).rowcount == 1


_HOLD = Prepared(
    select(images.c.id, db_now())
    .where(is_one_of(images.c.id, "ids"), images.c.state == ImageState.READY)
    .order_by(images.c.id)  # so that two transactions cannot deadlock
    .with_for_update(read=True)
)


def hold_ready_images(connection: Connection, ids: Collection[int]) -> tuple[float, set[int]]:
    """Keep images from being deleted or registered again until the transaction ends.

    Return the time, and those that there are and that are ready.
    """
    rows = _HOLD.rows(connection, ids=sorted(ids))
    return rows[0][1] if rows else 0.0, {row[0] for row in rows}


def no_image(owner: str, appliance_id: int, id: int) -> NotFound:
    return NotFound(_missing(owner, appliance_id, id))


def _missing(owner: str, appliance_id: int, id: int) -> str:
    return f"appliance {appliance_id} of {owner} has no image {id}"


def image_of_row(row: Row[Any]) -> Image:
    """Build an image from a row that has `IMAGE_COLUMNS`, and maybe others."""
    return image_of_values([row._mapping[each.name] for each in IMAGE_COLUMNS])


def image_of_values(given: Sequence[Any]) -> Image:
    """Build an image from the values of `IMAGE_COLUMNS`."""
    values = dict(zip(_NAMES, given, strict=True))
    # Earlier versions stored `qcow2` where this one says `openstackqcow2`.
    wanted = values["wanted_format"] and full_name(values["wanted_format"])
    read = {"state": ImageState(values["state"]), "format": full_name(values["format"]), "wanted_format": wanted}
    return Image(**values | read)
