"""Prepared statements do on each kind of database what SQLAlchemy's own execution does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from publisher.store import Store
from publisher.store.database import accounts, elections, reading, run_on_driver, users, writing
from publisher.store.engine import open_engine
from publisher.store.prepared import Prepared, insert_into_several, insert_rows, is_one_of

HOLDERS = Prepared(
    select(elections.c.office, elections.c.holder)
    .where(is_one_of(elections.c.office, "offices"), elections.c.holder != "nobody", elections.c.until > 1.0)
    .order_by(elections.c.office)
)


def election(office: str, holder: str = "me") -> dict[str, Any]:
    return {"office": office, "holder": holder, "until": 2.0}


def account(owner: str, **values: Any) -> dict[str, Any]:
    plain = {"name": "one", "platform": "openstack", "fields": {}, "sealed_secrets": b"", "created": 0, "modified": 0}
    return {"owner": owner} | plain | values


def test_rows_with_a_listed_value_are_found(store: Store) -> None:
    names = ["plain", "quote'd", 'double "', "back\\slash", "ünïcode", "per%cent", "col:on", "[1]"]
    with writing(store.engine) as connection:
        insert_rows(connection, elections, [election(each) for each in names] + [election("theirs", "nobody")])
        for wanted in ([], ["plain"], [*names, "theirs", "missing"]):
            found = [tuple(row) for row in HOLDERS.rows(connection, offices=wanted)]
            assert sorted(found) == [(each, "me") for each in sorted(set(wanted) & set(names))]


def test_inserted_rows_are_read_as_they_were_given(store: Store) -> None:
    store.users.add("dora", "a long password")
    fields = {"text": 'a "quoted" \\ %s ? :x ü', "number": 1, "list": [None, True]}
    given = [account("dora", name=name, fields=fields, sealed_secrets=bytes(range(256))) for name in ("one", "two")]
    with writing(store.engine) as connection:
        ids: dict[str, int] = dict(insert_rows(connection, accounts, given, "name", "id"))
    for name in ("one", "two"):
        found = store.accounts.get("dora", ids[name])
        assert (found.name, found.fields, found.sealed_secrets) == (name, fields, bytes(range(256)))


def test_rows_with_a_known_key_can_be_left_out(store: Store) -> None:
    with writing(store.engine) as connection:
        insert_rows(connection, elections, [election("known", "first")])
        given = [election("known", "second"), election("new", "second")]
        assert [tuple(row) for row in insert_rows(connection, elections, given, "office", unless_there=True)] == [
            ("new",)
        ]
    with reading(store.engine) as connection:
        assert dict(HOLDERS.rows(connection, offices=["known", "new"])) == {"known": "first", "new": "second"}


def test_no_rows_need_no_statement(store: Store) -> None:
    with reading(store.engine) as connection:
        assert insert_rows(connection, elections, [], "office") == []


@pytest.mark.parametrize("counts", [(1, 2), (0, 2), (2, 0), (0, 0)])
def test_rows_are_inserted_into_several_tables(store: Store, counts: tuple[int, int]) -> None:
    store.users.add("dora", "a long password")
    offices, names = [f"office {at}" for at in range(counts[0])], [f"account {at}" for at in range(counts[1])]
    given = {
        elections: [election(each) for each in offices],
        accounts: [account("dora", name=each, sealed_secrets=b"sealed") for each in names],
    }
    with writing(store.engine) as connection:
        insert_into_several(connection, given)
        assert [office for office, _ in HOLDERS.rows(connection, offices=["office 0", "office 1"])] == offices
    assert [(each.name, each.sealed_secrets) for each in store.accounts.list("dora")] == [
        (each, b"sealed") for each in names
    ]


def test_json_and_booleans_are_read_by_their_types(store: Store) -> None:
    store.users.add("dora", "a long password", administrator=True)
    query = Prepared(select(users.c.administrator, users.c.roles, users.c.notify_url.is_not(None)))
    with reading(store.engine) as connection:
        ((administrator, roles, has_url),) = query.rows(connection)
    assert (administrator is True, roles, has_url is False) == (True, [], True)


def test_a_prepared_statement_takes_plain_parameters_too(store: Store) -> None:
    store.users.add("dora", "a long password")
    query = Prepared(select(users.c.login).where(users.c.login == bindparam("who")))
    with reading(store.engine) as connection:
        assert [tuple(row) for row in query.rows(connection, who="dora")] == [("dora",)]
        assert not query.rows(connection, who="nobody")


def test_errors_are_those_of_sqlalchemy_and_show_no_parameters(store: Store) -> None:
    with pytest.raises(IntegrityError) as raised, writing(store.engine) as connection:
        insert_rows(connection, accounts, [account("nobody", sealed_secrets=b"very secret", fields={"a": "private"})])
    assert "very secret" not in str(raised.value)
    assert b"very secret".hex() not in str(raised.value)
    assert "private" not in str(raised.value)
    with (
        pytest.raises((OperationalError, ProgrammingError)),
        reading(store.engine) as connection,
    ):
        run_on_driver(connection, "SELECT nothing FROM nowhere")


def test_the_transaction_is_rolled_back_after_an_error(store: Store) -> None:
    def insert_twice() -> None:
        with writing(store.engine) as connection:
            insert_rows(connection, elections, [election("one")])
            insert_rows(connection, elections, [election("one")])

    with pytest.raises(IntegrityError):
        insert_twice()
    with reading(store.engine) as connection:
        assert not HOLDERS.rows(connection, offices=["one"])


def test_a_locked_database_is_reported_as_by_sqlalchemy(sqlite_url: str) -> None:
    one, two = open_engine(sqlite_url), open_engine(sqlite_url)
    with writing(one):
        began = time.monotonic()
        with pytest.raises(OperationalError), writing(two, wait_seconds=0.0):
            pass
        assert time.monotonic() - began < 5
    one.dispose()
    two.dispose()
