"""Queries and orders give the same results in memory and on each kind of database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    case,
    insert,
    select,
)

from publisher.core.errors import InvalidRequest
from publisher.core.fiql import parse
from publisher.core.listing import ListField, ListFieldKind, Listing, Page, Value, page
from publisher.store.database import reading, writing
from publisher.store.engine import open_engine
from publisher.store.list_queries import Fields, select_page
from tests.servers.postgres import PostgresServer

THINGS = Table(
    "things",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("name", String(255)),
    Column("format", String(32), nullable=False),
    Column("size", Integer),
    Column("ready", Boolean),
    Column("made", Double),
)
KINDS = {
    "dbId": ListFieldKind.NUMBER,
    "name": ListFieldKind.TEXT,
    "format.name": ListFieldKind.NAME,
    "size": ListFieldKind.NUMBER,
    "ready": ListFieldKind.BOOLEAN,
    "made": ListFieldKind.TIME,
}
SOURCES = {"dbId": "id", "format.name": "format"}
TARGETS = {"openstackqcow2": "openstack", "raw": "Google"}
"""Values of a field that is no column of the table."""


@dataclass(frozen=True)
class Thing:
    id: int
    name: str | None
    format: str = "qcow2"
    size: int | None = None
    ready: bool | None = None
    made: float | None = None


JANUARY = 1767225600.0  # 2026-01-01T00:00:00Z
ROWS = [
    Thing(1, "nginx", size=5, ready=True, made=JANUARY),
    Thing(2, "Nginx 100%", "raw", size=7, ready=False, made=JANUARY + 0.1230009),
    Thing(3, "my_nginx", "ISO", size=-3, ready=True, made=JANUARY + 0.124),
    Thing(4, None),
    Thing(5, "a*b?[c]/!\\d'e\"", "openstackqcow2", size=5, made=JANUARY - 86400),
    Thing(6, "äpfel", size=2**31 - 1),
    Thing(7, "zebra", "ISO", made=JANUARY + 0.1229997),
    Thing(8, "", ready=False),
    Thing(9, "myXnginx"),
    Thing(10, "a\nb"),
]

Lister = Callable[[Listing], Page[int]]


def in_memory(listing: Listing) -> Page[int]:
    fields: dict[str, ListField[Callable[[Thing], Value | None]]] = {
        name: ListField(attrgetter(SOURCES.get(name, name)), kind) for name, kind in KINDS.items()
    }
    fields["targetFormat.name"] = ListField(target, ListFieldKind.NAME)
    found = page(ROWS, fields, listing)
    return Page(found.total, [each.id for each in found.items])


def target(thing: Thing) -> str:
    return TARGETS.get(thing.format, "any")


def stored(engine: Engine) -> Lister:
    computed = case(TARGETS, value=THINGS.c.format, else_="any")
    fields: Fields = {
        **{name: ListField(THINGS.c[SOURCES.get(name, name)], kind) for name, kind in KINDS.items()},
        "targetFormat.name": ListField(computed, ListFieldKind.NAME),
    }
    with writing(engine) as connection:
        THINGS.create(connection)
        # In reverse, so that the order of insertion is not the order of the numbers.
        for row in reversed(ROWS):
            connection.execute(insert(THINGS).values(**{each: getattr(row, each) for each in row.__annotations__}))

    def lister(listing: Listing) -> Page[int]:
        with reading(engine) as connection:
            found = select_page(connection, select(THINGS), fields, listing)
        return Page(found.total, [row.id for row in found.items])

    return lister


@pytest.fixture(scope="module")
def sqlite_lister(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lister]:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('things') / 'things.db'}")
    yield stored(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def postgres_lister(postgres: PostgresServer) -> Iterator[Lister]:
    engine = open_engine(postgres.fresh())
    yield stored(engine)
    engine.dispose()


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def lister(request: pytest.FixtureRequest) -> Lister:
    if request.param == "memory":
        return in_memory
    made: Lister = request.getfixturevalue("sqlite_lister" if request.param == "sqlite" else "postgres_lister")
    return made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name==nginx", [1]),
        ("name==NGINX", []),
        ("name=='*nginx*'", [1, 3, 9]),
        ("name=='*nginx'", [1, 3, 9]),
        ("name=='?ginx'", []),
        ("name==my_nginx", [3]),
        ("name==my_*", [3]),
        ("name=='*%'", [2]),
        ("name=='*%*'", [2]),
        ("name=='%'", []),
        ("name=='*'", [1, 2, 3, 5, 6, 7, 8, 9, 10]),
        ("name!='*'", [4]),
        ("name!='*n*'", [4, 5, 6, 7, 8, 10]),
        (r"name=='a\*b*'", [5]),
        ("name=='*[c]*'", [5]),
        ("name=='*c*'", [5]),
        ("name=='*?*'", [5]),
        ("name=='*/*'", [5]),
        (r"name=='*\\*'", [5]),
        (r"name=='*\'e*'", [5]),
        ("name=='a*b'", [10]),
        ("name==äpfel", [6]),
        ("name==ä*", [6]),
        ("name==Ä*", []),
        ("name==''", [8]),
        ("name!=''", [1, 2, 3, 4, 5, 6, 7, 9, 10]),
        ("name=gt=n", [1, 6, 7]),
        ("name=lt=a", [2, 8]),
        ("name=ge=nginx;name=le=nginx", [1]),
        ("format.name==iso", [3, 7]),
        ("format.name=='ISO'", [3, 7]),
        ("format.name!=ISO;format.name!=QCOW2", [2, 5]),
        ("format.name=='*QCOW2'", [1, 4, 5, 6, 8, 9, 10]),
        ("format.name==openstack*", [5]),
        ("targetFormat.name=='openstack'", [5]),
        ("targetFormat.name=='*O*';targetFormat.name!=any", [2, 5]),
        ("size==5", [1, 5]),
        ("size!=5", [2, 3, 4, 6, 7, 8, 9, 10]),
        ("size=lt=5", [3]),
        ("size=le=+5", [1, 3, 5]),
        ("size=gt=-3;size=lt=7", [1, 5]),
        ("size=ge=2147483647", [6]),
        ("size=lt=9223372036854775807", [1, 2, 3, 5, 6]),
        ("size=gt=-9223372036854775807", [1, 2, 3, 5, 6]),
        ("dbId==3,dbId=='4'", [3, 4]),
        ("ready==true", [1, 3]),
        ("ready!=true", [2, 4, 5, 6, 7, 8, 9, 10]),
        ("ready=='False'", [2, 8]),
        ("made==2026-01-01T00:00:00Z", [1]),
        ("made=='2026-01-01T00:00:00.123Z'", [2, 7]),
        ("made!=2026-01-01T01:00:00.123+01:00", [1, 3, 4, 5, 6, 8, 9, 10]),
        ("made=gt=2026-01-01T00:00:00.123Z", [3]),
        ("made=ge=2026-01-01T00:00:00.123Z", [2, 3, 7]),
        ("made=lt=2026-01-01T00:00:00.123Z", [1, 5]),
        ("made=le=2026-01-01T00:00:00.123Z", [1, 2, 5, 7]),
        ("made=le=0001-01-01T00:00:00+23:00", []),
        ("(name==nginx,name==zebra);format.name==ISO", [7]),
        ("name==nginx,name==zebra;format.name==ISO", [1, 7]),
        ("name==nginx,format.name==ISO;size=lt=0", [1, 3]),
        ("(" * 20 + "name==nginx" + ")" * 20, [1]),
        (",".join(f"dbId=={number}" for number in range(3, 103)), [3, 4, 5, 6, 7, 8, 9, 10]),
        (";".join(f"dbId!={number}" for number in range(3, 103)), [1, 2]),
        ("name=='" + "*a" * 2000 + "'", []),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_query_finds_the_matching_rows(lister: Lister, query: str, found: list[int]) -> None:
    assert lister(Listing(parse(query))) == Page(len(found), found)


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        (Listing(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (Listing(descending=True), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (Listing(order_by="name"), [4, 8, 2, 10, 5, 9, 3, 1, 7, 6]),
        (Listing(order_by="name", descending=True), [6, 7, 1, 3, 9, 5, 10, 2, 8, 4]),
        (Listing(order_by="size"), [4, 7, 8, 9, 10, 3, 1, 5, 2, 6]),
        (Listing(order_by="format.name"), [3, 7, 5, 1, 4, 6, 8, 9, 10, 2]),
        (Listing(order_by="targetFormat.name"), [1, 3, 4, 6, 7, 8, 9, 10, 2, 5]),
        (Listing(order_by="ready"), [4, 5, 6, 7, 9, 10, 2, 8, 1, 3]),
        (Listing(order_by="made", descending=True), [3, 2, 7, 1, 5, 10, 9, 8, 6, 4]),
        (Listing(order_by="dbId"), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_list_is_sorted_as_a_whole_and_page_by_page(lister: Lister, listing: Listing, found: list[int]) -> None:
    assert lister(listing) == Page(10, found)
    # Page by page it is the same list, and each total counts all of it.
    pages = [lister(replace(listing, count=3, offset=offset)) for offset in range(0, 12, 3)]
    assert [each.total for each in pages] == [10] * 4
    assert [id for each in pages for id in each.items] == found


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        (Listing(count=2), Page(10, [1, 2])),
        (Listing(offset=8), Page(10, [9, 10])),
        (Listing(offset=10), Page(10, [])),
        (Listing(count=2**31 - 1, offset=2**31 - 1), Page(10, [])),
        (Listing(parse("format.name==qcow2"), "name", True, 2, 1), Page(6, [1, 9])),
        (Listing(parse("name==none"), count=5), Page(0, [])),
    ],
)
def test_page_has_the_requested_rows_and_the_total(lister: Lister, listing: Listing, found: Page[int]) -> None:
    assert lister(listing) == found


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (Listing(parse("nome==x")), "query: 'nome' is no field of this list; its fields are dbId, name, format.name"),
        (Listing(parse("name==x;" + "n" * 100 + "==x")), "query: 'nnnnnn.*…' is no field"),
        (Listing(order_by="nome"), "orderBy: 'nome' is no field of this list; its fields are dbId, name"),
        (Listing(parse("size==x")), "query: size is an integer, and cannot be compared with 'x'"),
        (Listing(parse("size==1.5")), "size is an integer"),
        (Listing(parse("size==9223372036854775808")), "size is an integer"),
        (Listing(parse("size==" + "9" * 4000)), "size is an integer, and cannot be compared with '9{40}…'"),
        (Listing(parse("size==٣")), "size is an integer"),
        (Listing(parse("size==''")), "size is an integer"),
        (Listing(parse("ready==1")), "ready is true or false, and cannot be compared with '1'"),
        (Listing(parse("ready=gt=false")), "ready is true or false: it goes with == and != alone"),
        (Listing(parse("made==yesterday")), "made is a dateTime with an offset"),
        (Listing(parse("made==2026-01-01T00:00:00")), "made is a dateTime with an offset"),
        (Listing(parse("made=='2026-01-01T00:00:00 01:00'")), "is written %2B in a URI"),
        (Listing(parse("made==2026-02-30T00:00:00Z")), "made is a dateTime with an offset"),
        (Listing(parse("name=lt=a*")), "name is compared with a '\\*': it stands for any text with == and != alone"),
        (Listing(parse("size==1*")), "in no number, boolean or dateTime"),
        (Listing(parse("made!=2026*")), "in no number"),
        (Listing(parse("ready==*")), "in no number"),
    ],
)
def test_invalid_query_or_order_is_refused(lister: Lister, listing: Listing, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        lister(listing)


TEXTS = some.text("n*gix%_[]?/ZzÄä'", max_size=4)
VALUES = TEXTS.map(lambda text: "".join(f"\\{each}" if each == "'" else each for each in text))
NUMBERS = some.integers(-4, 8).map(str)
COMPARISONS = some.one_of(
    some.builds("{}{}'{}'".format, some.sampled_from(["name", "format.name"]), some.sampled_from(["==", "!="]), VALUES),
    some.builds(
        "{}{}'{}'".format,
        some.sampled_from(["name", "format.name"]),
        some.sampled_from(["=lt=", "=le=", "=gt=", "=ge="]),
        VALUES.filter(lambda text: "*" not in text),
    ),
    some.builds("{}{}{}".format, some.just("size"), some.sampled_from(["==", "!=", "=lt=", "=ge="]), NUMBERS),
    some.builds("ready{}{}".format, some.sampled_from(["==", "!="]), some.sampled_from(["true", "false"])),
)
QUERIES = some.recursive(
    COMPARISONS, lambda inner: some.builds("({}{}{})".format, inner, some.sampled_from(",;"), inner), max_leaves=5
)


@pytest.mark.long
@given(
    query=QUERIES,
    order_by=some.sampled_from([None, *KINDS]),
    descending=some.booleans(),
    count=some.none() | some.integers(1, 4),
    offset=some.integers(0, 3),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_results_do_not_depend_on_the_database(lister: Lister, query: str, **parameters: Any) -> None:
    listing = Listing(parse(query), **parameters)
    assert lister(listing) == in_memory(listing)
