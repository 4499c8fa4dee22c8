"""Fixtures for all tests: real servers, started when a test first asks for one and used until the run ends."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings
from sqlalchemy import URL, Engine, create_engine

from publisher.devcloud.cloud import DevCloud
from publisher.store import Store, engine, users
from tests import blame, distribution, skips
from tests.clouds import Glance
from tests.devcloud_venv import devcloud_venv
from tests.servers import missing, shared
from tests.servers.postgres import OwnPostgres, PostgresServer, find_postgres, find_trigrams, postgres_server
from tests.servers.rabbitmq import OwnRabbit, RabbitServer, find_rabbitmq, rabbitmq_server
from tests.servers.redis import RedisServer, redis_server
from tests.servers.shared import RUN, Run
from tests.shared_cloud import SharedCloud

# Processes that the tests start must find this code and the tests' own plugin, as this process does.
_FOUND = [str(Path(__file__).parent / "memory_cloud"), str(Path(__file__).parent.parent)]
_PATH = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*_FOUND, *filter(None, _PATH)]))

# Use the same examples in each run, even on a slow machine.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    for plugin in (blame, distribution, shared, skips):
        config.pluginmanager.register(plugin)


@pytest.fixture(autouse=True)
def quick_hashes() -> Iterator[None]:
    """Make password hashes in this process cheap, both to create and to verify.

    A file that tests the cost of a hash overrides this fixture with one that does nothing.
    """
    with quick_hashing():
        yield


_QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@contextmanager
def quick_hashing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "_hasher", _QUICK)
        yield


@pytest.fixture(autouse=True, scope="session")
def statements_compiled_once() -> Iterator[None]:
    """Share compiled statements among all SQLite engines of this process, so that each is compiled only once."""
    template = create_engine("sqlite://", query_cache_size=5000)
    template.connect().close()  # after this the dialect knows SQLite's features
    template.dispose()
    open_sqlite = engine._open_sqlite

    def open_one(url: URL) -> Engine:
        opened = open_sqlite(url)
        opened.dialect, opened._compiled_cache = template.dialect, template._compiled_cache
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, open_sqlite.__name__, open_one)
        yield


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A real Redis. A test that stops it must start it again."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def whole_run(request: pytest.FixtureRequest) -> Run:
    """What all processes of this test run share."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def postgres(whole_run: Run) -> PostgresServer:
    """The run's PostgreSQL. `fresh()` creates a database. Do not stop it; use `own_postgres`."""
    if find_postgres() is None:
        missing("PostgreSQL")
    return _postgres(whole_run.server("postgres", "postgres"))


@pytest.fixture(scope="session")
def postgres_with_trigrams(whole_run: Run) -> PostgresServer:
    """The run's PostgreSQL that has the extension `pg_trgm`."""
    if find_trigrams() is None:
        missing("PostgreSQL with pg_trgm")
    return _postgres(whole_run.server("postgres with trigrams", "postgres with trigrams"))


def _postgres(told: dict[str, Any]) -> PostgresServer:
    return PostgresServer(Path(told["binaries"]), told["port"], told["password"])


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL that the test may stop and kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq(whole_run: Run, worker_number: int) -> RabbitServer:
    """A virtual host of the run's RabbitMQ that only this process uses. Do not stop the server; use `own_rabbitmq`."""
    if find_rabbitmq() is None:
        missing("rabbitmq-server")
    return RabbitServer(whole_run.server("rabbitmq", "rabbitmq")["port"], str(worker_number))


@pytest.fixture
def own_rabbitmq() -> Iterator[OwnRabbit]:
    """A RabbitMQ that the test may stop and kill."""
    with rabbitmq_server() as server:
        yield server


@pytest.fixture(scope="session")
def worker_number() -> int:
    """The number of this process among those of xdist that run at the same time, from 0."""
    # If one has crashed, xdist starts another one, whose name has a higher number.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return number % int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


@pytest.fixture
def devcloud(request: pytest.FixtureRequest, whole_run: Run) -> Iterator[DevCloud]:
    """A real Keystone and Glance.

    The user `uploader` has a project that only this process uses, without images before a file's first test. A test
    that stops, breaks or configures the cloud, or changes its catalog, has the mark `own_cloud`: then no other test
    uses the cloud meanwhile. Such a test must leave it as it was and running.
    """
    if not request.node.get_closest_marker("own_cloud"):
        yield request.getfixturevalue("emptied_cloud")
        return
    devcloud_venv()  # skips the test if there is none
    told = whole_run.server("own cloud", "devcloud")
    with whole_run.alone("use of own cloud"):
        cloud = DevCloud(Path(told["directory"]), Path(told["venv"]))
        Glance(cloud).empty()
        yield cloud


@pytest.fixture(scope="module")
def emptied_cloud(shared_cloud: SharedCloud) -> SharedCloud:
    # Tickets of different test files have the same numbers, and tests find images in the cloud by these numbers.
    Glance(shared_cloud).empty()
    return shared_cloud


@pytest.fixture(scope="session")
def shared_cloud(whole_run: Run) -> SharedCloud:
    """The run's Keystone and Glance. Tests of other files may have left images in it, so use `devcloud` instead."""
    devcloud_venv()  # skips the test if there is none
    told = whole_run.server("devcloud", "devcloud")
    return SharedCloud.join(Path(told["directory"]), Path(told["venv"]))


# The ticket store ---------------------------------------------


def open_store(url: str) -> Store:
    """Open a store with a short `wake_again_seconds`, so that tests need not wait."""
    return Store(engine.open_engine(url), wake_again_seconds=5.0)


@pytest.fixture(scope="session")
def sqlite_template(whole_run: Run) -> Path:
    """A migrated database file. Tests use copies of it."""

    def make() -> str:
        file = whole_run.directory / "template.db"
        _migrate(f"sqlite:///{file}")
        return str(file)

    return Path(whole_run.once("SQLite template", make))


@pytest.fixture(scope="session")
def postgres_template(whole_run: Run, postgres: PostgresServer) -> str:
    """The name of a migrated database. Tests use copies of it."""

    def make() -> str:
        url = postgres.fresh()
        _migrate(url)
        return url.rsplit("/", 1)[1]

    return str(whole_run.once("PostgreSQL template", make))


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh, migrated SQLite database."""
    shutil.copyfile(sqlite_template, tmp_path / "publisher.db")
    return f"sqlite:///{tmp_path / 'publisher.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh, migrated database of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.fresh(request.getfixturevalue("postgres_template"))
    yield url
    server.drop(url)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A fresh, migrated store on each kind of database."""
    store = open_store(database_url)
    yield store
    store.close()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """A fresh, migrated store on SQLite, for tests that do not depend on the kind of database."""
    store = open_store(sqlite_url)
    yield store
    store.close()


@pytest.fixture
def stores(database_url: str) -> Iterator[Callable[[], Store]]:
    """Opens more stores on one database. Each has its own connections, like a store in another process."""
    opened: list[Store] = []

    def another() -> Store:
        opened.append(open_store(database_url))
        return opened[-1]

    yield another
    for each in opened:
        each.close()


def _migrate(url: str) -> None:
    store = open_store(url)
    store.migrate()
    store.close()
