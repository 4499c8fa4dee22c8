"""Kept connections to PostgreSQL: checked when they may be lost, and otherwise not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from publisher.store import Store
from publisher.store.database import reading, writing
from tests.conftest import open_store
from tests.servers.postgres import OwnPostgres, postgres_server

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    """A PostgreSQL of its own, which tests may restart."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def store(server: OwnPostgres) -> Iterator[Store]:
    store = open_store(server.fresh())
    yield store
    store.close()


@pytest.fixture
def pings(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[object]:
    found: list[object] = []
    dialect = type(store.engine.dialect)
    ping = dialect.do_ping

    def note(self: Any, connection: Any) -> Any:
        found.append(connection)
        return ping(self, connection)

    monkeypatch.setattr(dialect, "do_ping", note)
    return found


def use(store: Store) -> int:
    """Use a connection, and return its server process."""
    with reading(store.engine) as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def restart(server: OwnPostgres) -> None:
    server.crash()
    server.start()


def test_a_connection_in_use_is_not_checked(store: Store, pings: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publisher.store.engine._PAUSE_SECONDS", 3600.0)
    assert len({use(store) for _ in range(10)}) == 1
    with writing(store.engine):
        pass
    assert pings == []


def test_a_connection_is_checked_after_a_pause(
    store: Store, pings: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publisher.store.engine._PAUSE_SECONDS", 0.0)
    assert use(store) == use(store)
    assert len(pings) == 1


def end_one(server: OwnPostgres, store: Store) -> None:
    pid = use(store)
    other = open_store(str(store.engine.url.render_as_string(hide_password=False)))
    with reading(other.engine) as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    other.close()


@pytest.mark.parametrize("lose", [lambda server, store: restart(server), end_one])
def test_a_lost_connection_is_replaced_at_once(
    server: OwnPostgres, store: Store, monkeypatch: pytest.MonkeyPatch, lose: Callable[..., None]
) -> None:
    monkeypatch.setattr("publisher.store.engine._PAUSE_SECONDS", 3600.0)
    made: list[object] = []
    event.listen(store.engine, "connect", lambda connection, _: made.append(connection))
    first = use(store)
    lose(server, store)
    assert use(store) != first
    with writing(store.engine) as connection:
        connection.execute(text("CREATE TABLE written (number INTEGER)"))
    assert len(made) == 2
