"""an index for the search by name, and indexes that list an appliance's or an image's tickets in order

The names are in a table of their own. On PostgreSQL, an index on the tickets would have to be written with every change
of a ticket. On SQLite, it is the only kind that can find a part of a name. Triggers keep the table current. If the
database has no trigrams, because SQLite was built without them or the role may not create the extension, the search
reads all names instead. On SQLite, a later migration that rebuilds `tickets` has to create the triggers again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_TRIGRAMS = {
    # With `detail = 'none'` it would be smaller, but then SQLite 3.40 crashes on a pattern with a short part.
    "sqlite": ["CREATE VIRTUAL TABLE ticket_names USING fts5(name, tokenize = 'trigram')"],
    "postgresql": [
        "CREATE EXTENSION IF NOT EXISTS pg_trgm",
        "CREATE INDEX ix_ticket_names_name ON ticket_names USING gin (name gin_trgm_ops)",
    ],
}
_PLAIN = {
    "sqlite": "CREATE TABLE ticket_names (rowid INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    "postgresql": "CREATE TABLE ticket_names (rowid BIGINT PRIMARY KEY, name VARCHAR(255) NOT NULL)",
}
_TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER ticket_names_insert AFTER INSERT ON tickets"
        " BEGIN INSERT INTO ticket_names (rowid, name) VALUES (NEW.id, NEW.name); END",
        "CREATE TRIGGER ticket_names_update AFTER UPDATE OF name ON tickets"
        " BEGIN UPDATE ticket_names SET name = NEW.name WHERE rowid = NEW.id; END",
        "CREATE TRIGGER ticket_names_delete AFTER DELETE ON tickets"
        " BEGIN DELETE FROM ticket_names WHERE rowid = OLD.id; END",
    ],
    "postgresql": [
        "CREATE FUNCTION ticket_names_insert() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO ticket_names (rowid, name) SELECT id, name FROM added; RETURN NULL; END $$",
        "CREATE FUNCTION ticket_names_update() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE ticket_names SET name = NEW.name WHERE rowid = NEW.id; RETURN NULL; END $$",
        "CREATE FUNCTION ticket_names_delete() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN DELETE FROM ticket_names USING gone WHERE rowid = gone.id; RETURN NULL; END $$",
        # Once for each statement: several tickets may be inserted together.
        "CREATE TRIGGER ticket_names_insert AFTER INSERT ON tickets REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION ticket_names_insert()",
        "CREATE TRIGGER ticket_names_update AFTER UPDATE OF name ON tickets"
        " FOR EACH ROW EXECUTE FUNCTION ticket_names_update()",
        "CREATE TRIGGER ticket_names_delete AFTER DELETE ON tickets REFERENCING OLD TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION ticket_names_delete()",
    ],
}


def upgrade() -> None:
    connection = op.get_bind()
    database = connection.dialect.name
    if database == "postgresql":
        op.execute(_PLAIN[database])
        _has_trigrams(connection)
    elif not _has_trigrams(connection):
        op.execute(_PLAIN[database])
    op.execute("INSERT INTO ticket_names (rowid, name) SELECT id, name FROM tickets")
    for statement in _TRIGGERS[database]:
        op.execute(statement)
    for name, column in (
        ("ix_tickets_owner_appliance_id", ["owner", "appliance_id"]),
        ("ix_tickets_image_id", ["image_id"]),
    ):
        op.drop_index(name, "tickets")
        op.create_index(f"{name}_id", "tickets", [*column, "id"])


def _has_trigrams(connection: sa.Connection) -> bool:
    """Create what finds parts of names; on a failure, change nothing and return False."""
    try:
        with connection.begin_nested():
            for statement in _TRIGRAMS[connection.dialect.name]:
                connection.exec_driver_sql(statement)
    except DBAPIError:
        return False
    return True
