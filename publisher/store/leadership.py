"""Roles that one process at a time may hold: the reconciler, the sweeper, …"""

from __future__ import annotations

from sqlalchemy import Engine, or_, update

from publisher.store.engine import db_now, upsert, writing
from publisher.store.tables import elections


class Leadership:
    """Elects one holder for each role. A holder that does not renew in time loses the role."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def hold(self, role: str, holder: str, seconds: float) -> bool:
        """Take or keep the role for `seconds`. False if another process holds it."""
        vacate = upsert(self._engine, elections).values(office=role, holder="", until=0.0).on_conflict_do_nothing()
        take = (
            update(elections)
            .where(elections.c.office == role)
            .where(or_(elections.c.holder == holder, elections.c.until < db_now()))
            .values(holder=holder, until=db_now() + seconds)
        )
        with writing(self._engine) as connection:
            taken = connection.execute(take).rowcount == 1
            if not taken:
                connection.execute(vacate)
                taken = connection.execute(take).rowcount == 1
            return taken

    def resign(self, role: str, holder: str) -> None:
        """Give the role up. Does nothing if another process holds it."""
        leave = update(elections).where(elections.c.office == role, elections.c.holder == holder).values(until=0.0)
        with writing(self._engine, durable=False) as connection:
            connection.execute(leave)
