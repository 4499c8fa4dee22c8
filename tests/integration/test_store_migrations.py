"""Migrations create the tables once, even if several processes run them at the same moment."""

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, make_url, text

from publisher.core.errors import ConfigurationError
from publisher.store import Store, _revisions
from publisher.store.database import metadata, reading, ticket_names, writing
from publisher.store.engine import open_engine
from publisher.store.ticket_rows import TicketFilter
from tests.conftest import open_store
from tests.patience import PATIENCE
from tests.records import add_ticket
from tests.servers.postgres import OwnPostgres, PostgresServer


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Return a function that gives the URL of a new empty database at each call."""
    made: list[str] = []
    server: PostgresServer | None = request.getfixturevalue("postgres") if request.param == "postgresql" else None

    def another() -> str:
        made.append(server.fresh() if server else f"sqlite:///{tmp_path / f'empty-{len(made)}.db'}")
        return made[-1]

    yield another
    if server:
        for url in made:
            server.drop(url)


def test_migration_creates_the_tables_in_an_empty_database(empty_database: Callable[[], str]) -> None:
    store = open_store(empty_database())
    with pytest.raises(ConfigurationError, match=r"of version none, this software needs .*; run: publisher migrate"):
        store.check_schema()
    store.migrate()
    store.check_schema()
    assert set(metadata.tables) <= set(inspect(store.engine).get_table_names())
    # During an upgrade, running processes continue, but a process that starts must be of the new version.
    with writing(store.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.check_schema(or_newer=True)
    with pytest.raises(ConfigurationError, match="newer than this software: its tables are of version 9999"):
        store.check_schema()
    store.close()


def test_second_migration_changes_nothing(empty_database: Callable[[], str]) -> None:
    store = open_store(empty_database())
    store.migrate()
    deployment = store.deployment
    store.migrate()
    store.close()
    store = open_store(store.engine.url.render_as_string(hide_password=False))
    store.check_schema()
    assert store.deployment == deployment
    store.close()


def test_a_newer_database_is_reported_as_such(store: Store) -> None:
    with writing(store.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    newer = "the database is newer than this software: its tables are of version 9999"
    with pytest.raises(ConfigurationError, match=newer):
        store.check_schema()
    with pytest.raises(ConfigurationError, match=newer):
        store.migrate()


def test_migrations_create_the_tables_that_the_program_defines(store: Store) -> None:
    def defined(name: str | None, *_: object) -> bool:
        """Return False for the index of names, which is a virtual table with tables of its own on SQLite."""
        return not (name or "").startswith(ticket_names.name)

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": defined})
        assert compare_metadata(context, metadata) == []


def test_store_knows_the_same_versions_as_alembic(store: Store) -> None:
    scripts = ScriptDirectory.from_config(store._alembic())
    assert list(_revisions()) == [each.revision for each in reversed(list(scripts.walk_revisions()))]


def test_each_installation_has_an_id_of_its_own(empty_database: Callable[[], str]) -> None:
    deployments = set()
    for _ in range(2):
        store = open_store(empty_database())
        store.migrate()
        deployments.add(store.deployment)
        store.close()
    assert len(deployments) == 2


def _migrate_when_told(
    url: str, go: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[str]"
) -> None:
    try:
        store = open_store(url)
        go.wait(60 * PATIENCE)
        store.migrate()
        results.put(store.deployment)
        store.close()
    except BaseException as error:
        results.put(f"failed: {error!r}")
        raise


@pytest.mark.long
def test_processes_may_migrate_at_the_same_moment(empty_database: Callable[[], str]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for _ in range(3):
        url = empty_database()
        go, results = context.Barrier(4), context.Queue()
        processes = [context.Process(target=_migrate_when_told, args=(url, go, results)) for _ in range(4)]
        for process in processes:
            process.start()
        found = [results.get(timeout=90 * PATIENCE) for _ in processes]
        for process in processes:
            process.join(30 * PATIENCE)
        results.close()
        assert not [each for each in found if each.startswith("failed")]
        assert len(set(found)) == 1
        store = open_store(url)
        store.check_schema()
        store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("no url", "not a SQLAlchemy database URL"),
        ("mysql://root:hunter2@db/x", "'mysql' is not supported; use sqlite or postgresql"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_unsupported_database_url_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        open_engine(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.real
def test_a_restarted_postgresql_is_reached_again(own_postgres: OwnPostgres) -> None:
    store = open_store(own_postgres.fresh())
    store.migrate()
    before = store.deployment
    own_postgres.crash()
    own_postgres.start()
    assert store.tickets.list() == []
    del store.deployment
    assert store.deployment == before
    store.close()


@pytest.mark.real
def test_connections_that_the_server_closed_are_replaced(postgres: PostgresServer, postgres_template: str) -> None:
    url = postgres.fresh(postgres_template)
    store = open_store(url)
    with reading(store.engine) as one, reading(store.engine) as another:
        before = {each.execute(text("SELECT pg_backend_pid()")).scalar_one() for each in (one, another)}
    postgres.run("psql", "-d", url.rsplit("/", 1)[1], "-c", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                 " WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    with reading(store.engine) as one, writing(store.engine) as another:
        after = {each.execute(text("SELECT pg_backend_pid()")).scalar_one() for each in (one, another)}
    assert before.isdisjoint(after)
    store.close()
    postgres.drop(url)


def _found_by_name(store: Store) -> list[str]:
    add_ticket(store, name="Web server")
    add_ticket(store, name="another")
    store.check_schema()
    return [each.name for each in store.publications.page(TicketFilter(words="web"), 10).tickets]


def test_sqlite_without_trigrams_is_searched_by_reading_all_names(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'plain.db'}")

    @event.listens_for(store.engine, "connect")
    def _refuse_virtual_tables(connection: sqlite3.Connection, _: object) -> None:
        refused = sqlite3.SQLITE_CREATE_VTABLE
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action == refused else sqlite3.SQLITE_OK)

    store.migrate()
    assert _found_by_name(store) == ["Web server"]
    with reading(store.engine) as connection:
        assert (
            "VIRTUAL"
            not in connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'ticket_names'")).scalar_one()
        )
    store.close()


@pytest.mark.real
def test_role_that_may_not_create_the_extension_can_migrate(postgres_with_trigrams: PostgresServer) -> None:
    url = postgres_with_trigrams.fresh()
    role = f"plain_{url[-8:]}"
    administrator = open_engine(url)
    with writing(administrator) as connection:
        for statement in (f"CREATE ROLE {role} LOGIN PASSWORD 'plain'", f"GRANT CREATE ON SCHEMA public TO {role}"):
            connection.execute(text(statement))
    administrator.dispose()
    store = open_store(make_url(url).set(username=role, password="plain").render_as_string(hide_password=False))
    store.migrate()
    assert _found_by_name(store) == ["Web server"]
    assert "ix_ticket_names_name" not in {each["name"] for each in inspect(store.engine).get_indexes("ticket_names")}
    store.close()
    postgres_with_trigrams.drop(url)
