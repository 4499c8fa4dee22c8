"""The catalog of generated images."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select, text
from sqlalchemy.exc import IntegrityError

from publisher.core.errors import Conflict
from publisher.core.image import Digests, Image, ImageState
from publisher.core.store.engine import db_now, reading, writing
from publisher.core.store.tables import images

_COLUMNS = [images.c[each.name] for each in fields(Image)]


class Images:
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
        id: int | None = None,
    ) -> Image:
        """Raises `Conflict` where the id is taken or the owner unknown."""
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
            "created": db_now(),
            "modified": db_now(),
            "registered": db_now(),
            "sent": digests.size,
            "total": digests.size,
        } | ({} if id is None else {"id": id})
        try:
            with writing(self._engine) as connection:
                added = _image(connection.execute(insert(images).values(row).returning(*_COLUMNS)).one())
                if id is not None and self._engine.dialect.name == "postgresql":
                    # A sequence does not see the ids that were given: move it past them.
                    connection.execute(
                        text("SELECT setval(pg_get_serial_sequence('images', 'id'), (SELECT max(id) FROM images))")
                    )
                return added
        except IntegrityError as error:
            if id is not None and self.get(id):
                raise Conflict(f"there is an image {id} already; leave out --id to have a number given") from None
            raise Conflict(f"there is no user '{owner}'") from error

    def get(self, id: int) -> Image | None:
        with reading(self._engine) as connection:
            row = connection.execute(select(*_COLUMNS).where(images.c.id == id)).one_or_none()
        return _image(row) if row else None

    def list(self, *, owner: str | None = None, appliance_id: int | None = None) -> list[Image]:
        query = select(*_COLUMNS).order_by(images.c.id)
        if owner is not None:
            query = query.where(images.c.owner == owner)
        if appliance_id is not None:
            query = query.where(images.c.appliance_id == appliance_id)
        with reading(self._engine) as connection:
            return [_image(row) for row in connection.execute(query)]

    def remove(self, id: int) -> bool:
        with writing(self._engine) as connection:
            return connection.execute(delete(images).where(images.c.id == id)).rowcount == 1


def _image(row: Row[Any]) -> Image:
    return Image(**{**row._mapping, "state": ImageState(row.state)})
