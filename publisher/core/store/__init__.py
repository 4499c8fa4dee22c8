"""The ticket store: SQLAlchemy tables, and one repository a noun."""

from publisher.core.store.store import Store

__all__ = ["Store"]
