"""The ticket store: SQLAlchemy tables, and one repository a noun."""

from publisher.store.store import Store

__all__ = ["Store"]
