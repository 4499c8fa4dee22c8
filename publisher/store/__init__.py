"""The ticket store: SQLAlchemy tables, and one repository for each kind of object."""

from publisher.store.store import Store

__all__ = ["Store"]
