"""Migrations create the tables once, even if several processes run them at the same moment."""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from publisher.core.errors import ConfigurationError
from publisher.store import Store
from publisher.store.engine import open_engine, writing
from publisher.store.store import _revisions
from publisher.store.tables import metadata
from tests.conftest import open_store
from tests.patience import PATIENCE
from tests.servers.postgres import PostgresServer


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
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


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
def test_a_restarted_postgresql_is_reached_again(postgres: PostgresServer, postgres_template: str) -> None:
    url = postgres.fresh(postgres_template)
    store = open_store(url)
    before = store.deployment
    postgres.crash()
    postgres.start()
    assert store.tickets.list() == []
    del store.deployment
    assert store.deployment == before
    store.close()
    postgres.drop(url)
