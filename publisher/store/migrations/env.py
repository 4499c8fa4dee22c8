"""Alembic's entry point: runs the migrations over the engine that the store hands it."""

from __future__ import annotations

from alembic import context

from publisher.store.database import metadata, writing

with writing(context.config.attributes["engine"]) as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Two processes that start together migrate one after the other.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7355608)")
        context.run_migrations()
