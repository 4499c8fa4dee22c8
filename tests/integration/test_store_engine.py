"""The connections to a real PostgreSQL."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, text

from publisher.core.store import engine as module
from publisher.core.store.engine import open_engine, reading
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.real


@pytest.fixture
def engine(postgres: PostgresServer) -> Iterator[Engine]:
    url = postgres.fresh()
    engine = open_engine(url)
    yield engine
    engine.dispose()
    postgres.drop(url)


def one(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(text("SELECT 1")).scalar_one())


def test_connections_that_broke_while_they_were_idle_are_replaced(
    engine: Engine, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.0)
    for connection in [engine.connect() for _ in range(3)]:
        connection.close()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        theirs = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        assert server.execute(theirs, (engine.url.database,)).fetchall() == [(True,)] * 3
    assert [one(engine) for _ in range(3)] == [1, 1, 1]


def test_a_connection_in_use_is_not_asked_each_time_whether_it_works(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 60.0)
    pings: list[object] = []
    monkeypatch.setattr(engine.dialect, "do_ping", pings.append)
    assert [one(engine) for _ in range(3)] == [1, 1, 1]
    assert not pings
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.0)
    one(engine)
    assert len(pings) == 1


def test_reading_begins_no_transaction(engine: Engine) -> None:
    with reading(engine) as connection:
        connection.execute(text("SELECT 1"))
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.transaction_status is TransactionStatus.IDLE
