"""Sessions of the console."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from publisher.core.errors import NotAuthenticated
from publisher.store import Store
from publisher.store.database import db_now, reading, sessions, writing
from publisher.store.sessions import session_id
from tests.records import OWNER, add_owner


@pytest.fixture
def owned(store: Store) -> Store:
    add_owner(store)
    return store


def begin(store: Store, verified: str = "-") -> str:
    return store.sessions.begin(OWNER, verified, seconds=1000, idle_seconds=100)[0]


def put_back(store: Store, **columns: float) -> None:
    with writing(store.engine) as connection:
        values = {name: db_now() - seconds for name, seconds in columns.items()}
        connection.execute(update(sessions).values(values))


def silent_seconds(store: Store) -> float:
    with reading(store.engine) as connection:
        return float(connection.execute(select(db_now() - sessions.c.seen)).scalar_one())


def test_session_does_not_begin_with_an_outdated_password(owned: Store) -> None:
    new = owned.users.set_password(OWNER, "another")
    with pytest.raises(NotAuthenticated):
        begin(owned)
    with pytest.raises(NotAuthenticated):
        owned.sessions.begin("nobody", new, seconds=1000, idle_seconds=100)
    value, _ = owned.sessions.begin(OWNER, new, seconds=1000, idle_seconds=100)
    assert owned.sessions.find(value, idle_seconds=100)


def test_a_session_is_found_by_its_cookie_until_it_is_ended(owned: Store) -> None:
    one, other = begin(owned), begin(owned)
    assert len({one, other}) == 2
    found = owned.sessions.find(one, idle_seconds=100)
    assert found
    assert found.login == OWNER
    assert found.expires - found.created == pytest.approx(1000, abs=1)
    assert found.csrf not in (one, other, "")
    assert found.csrf not in repr(found)
    for wrong in ("", "x", one[:-1], one + "x"):
        assert owned.sessions.find(wrong, idle_seconds=100) is None
    owned.sessions.end(one)
    owned.sessions.end(one)
    assert owned.sessions.find(one, idle_seconds=100) is None
    assert owned.sessions.find(other, idle_seconds=100)
    owned.sessions.end_one(OWNER, session_id(other))
    assert owned.sessions.find(other, idle_seconds=100) is None


@pytest.mark.parametrize("column", ["seen", "expires"])
def test_expired_session_is_not_found_and_is_deleted_with_the_next(owned: Store, column: str) -> None:
    value = begin(owned)
    put_back(owned, **{column: {"seen": 101.0, "expires": 0.0}[column]})
    assert owned.sessions.find(value, idle_seconds=100) is None
    begin(owned)
    with reading(owned.engine) as connection:
        assert len(connection.execute(select(sessions)).all()) == 1


def test_activity_is_recorded_from_time_to_time(owned: Store) -> None:
    value = begin(owned)
    put_back(owned, seen=20)
    owned.sessions.find(value, idle_seconds=100)
    assert silent_seconds(owned) >= 20, "not with each request"
    put_back(owned, seen=70)
    owned.sessions.find(value, idle_seconds=100, seen=False)
    assert silent_seconds(owned) >= 70
    owned.sessions.find(value, idle_seconds=100)
    assert silent_seconds(owned) < 10


def test_new_password_and_removal_of_the_user_end_all_sessions(owned: Store) -> None:
    value = begin(owned)
    password_hash = owned.users.set_password(OWNER, "another")
    assert owned.sessions.find(value, idle_seconds=100) is None
    owned.users.add("other", "x", administrator=True)
    value = begin(owned, password_hash)
    owned.users.remove(OWNER)
    assert owned.sessions.find(value, idle_seconds=100) is None


def test_a_user_sees_its_sessions_and_ends_one(owned: Store) -> None:
    one, other = begin(owned), begin(owned)
    listed = {each.id: each for each in owned.sessions.of(OWNER, idle_seconds=100)}
    assert set(listed) == {session_id(one), session_id(other)}
    assert one not in str(listed)
    owned.sessions.end_one("somebody else", session_id(one))
    assert owned.sessions.find(one, idle_seconds=100)
    owned.sessions.end_one(OWNER, session_id(one))
    owned.sessions.end_one(OWNER, session_id(one))
    assert owned.sessions.find(one, idle_seconds=100) is None
    assert [each.id for each in owned.sessions.of(OWNER, idle_seconds=100)] == [session_id(other)]
    put_back(owned, seen=101)
    assert owned.sessions.of(OWNER, idle_seconds=100) == []
