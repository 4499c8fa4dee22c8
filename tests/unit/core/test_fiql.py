"""FIQL: valid queries are parsed, invalid ones are refused, and hostile ones are refused quickly."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from publisher.core.errors import InvalidRequest
from publisher.core.fiql import (
    COMPARISONS_MAX,
    DEPTH_MAX,
    LENGTH_MAX,
    OPERATORS,
    Comparison,
    Expression,
    Joined,
    parse,
)


def equal(*pieces: str, name: str = "a", operator: str = "==") -> Comparison:
    return Comparison(name, operator, pieces)


A, B, C = equal("1"), equal("2", name="b"), equal("3", name="c")


@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("a==1", A),
        ("a=='1'", A),
        ('a=="1"', A),
        (" a == '1' ", A),
        ("name=='*nginx*'", equal("", "nginx", "", name="name")),
        ("name==*nginx*", equal("", "nginx", "", name="name")),
        ("targetFormat.name=='openstack'", equal("openstack", name="targetFormat.name")),
        *((f"a{each}1", equal("1", operator=each)) for each in OPERATORS),
        ("a==''", equal("")),
        ("a=='*'", equal("", "")),
        ("a==**", equal("", "", "")),
        ("a=='two words; (and, \"more\")'", equal('two words; (and, "more")')),
        ('a=="it\'s"', equal("it's")),
        ("a==it's", equal("it's")),
        (r"a=='it\'s'", equal("it's")),
        (r"a=='\*\\\*'", equal("*\\*")),
        (r"a=='x\*y*z'", equal("x*y", "z")),
        (r"a==x\y", equal(r"x\y")),
        ("a==b==c", equal("b==c")),
        ("a==2026-01-02T03:04:05.678+01:00", equal("2026-01-02T03:04:05.678+01:00")),
        ("a=='ÅÄ 日本 🙂'", equal("ÅÄ 日本 🙂")),
        ("a==1;b==2;c==3", Joined(True, (A, B, C))),
        ("a==1,b==2,c==3", Joined(False, (A, B, C))),
        ("a==1,b==2;c==3", Joined(False, (A, Joined(True, (B, C))))),
        ("a==1;b==2,c==3", Joined(False, (Joined(True, (A, B)), C))),
        ("(a==1,b==2);c==3", Joined(True, (Joined(False, (A, B)), C))),
        ("a==1 ; ( b==2 , c==3 )", Joined(True, (A, Joined(False, (B, C))))),
        ("((a==1))", A),
        ("(" * DEPTH_MAX + "a==1" + ")" * DEPTH_MAX, A),
        (",".join(["a==1"] * COMPARISONS_MAX), Joined(False, (A,) * COMPARISONS_MAX)),
        (f"a=={'x' * (LENGTH_MAX - 3)}", equal("x" * (LENGTH_MAX - 3))),
    ],
)
def test_query_is_parsed(query: str, meaning: Expression) -> None:
    assert parse(query) == meaning


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "at character 1, the name of a field is expected, not the end"),
        ("==1", "at character 1, the name of a field is expected, not '==1'"),
        ("a", "at character 2, one of == != =lt= =le= =gt= =ge= is expected, not the end"),
        ("a 1", "at character 3, one of"),
        ("a=1", "the operator '=' is unknown; known are =="),
        ("a=like=1", "the operator '=like=' is unknown"),
        ("a=LT=1", "the operator '=LT=' is unknown"),
        ("a<1", "the operator '<' is unknown"),
        ("a==", "at character 4, a value, in quotes where it has blanks or any of ;,() is expected, not the end"),
        ("a==;b==2", "at character 4, a value"),
        ("a=='1", "at character 4, a value"),
        (r"a=='1\'", "at character 4, a value"),
        ("a==two words", "at character 8, ';', ',' or the end is expected, not 'words'"),
        ("a=='1'x", "at character 7, ';', ',' or the end is expected"),
        ("a==1;", "at character 6, the name of a field is expected, not the end"),
        ("a==1,,b==2", "at character 6, the name of a field"),
        ("(a==1", "at character 6, ')' is expected, not the end"),
        ("a==1)", "at character 5, ';', ',' or the end is expected, not ')'"),
        ("()", "at character 2, the name of a field"),
        ("a==1;xxxxxxxxxxxxxxxxxxxxxxxxx$", "is expected, not '$'"),
        ("a==1;$xxxxxxxxxxxxxxxxxxxxxxxxx", "not '$xxxxxxxxxxxxxxxxxxx…'"),
        ("a=='\0'", "U\\+0000"),
        ("å==1", "at character 1, the name of a field"),
    ],
)
def test_invalid_query_is_refused_with_the_position(query: str, words: str) -> None:
    with pytest.raises(
        InvalidRequest, match=words.replace("(", r"\(").replace(")", r"\)").replace("$", r"\$")
    ) as caught:
        parse(query)
    assert caught.value.field == "query"
    assert str(caught.value).startswith("query: ")


@pytest.mark.parametrize(
    "query",
    [
        "a==" + "x" * 100_000,
        "(" * 10_000,
        "(" * 10_000 + "a==1" + ")" * 10_000,
        "(" * (DEPTH_MAX + 1) + "a==1" + ")" * (DEPTH_MAX + 1),
        "(" * 4000,
        ";".join(["a==1"] * (COMPARISONS_MAX + 1)),
        ",".join(["(a==1)"] * (COMPARISONS_MAX + 1)),
        "a=='" + "\\" * (LENGTH_MAX - 4),
        "a" * LENGTH_MAX,
        "a" + "=" * (LENGTH_MAX - 1) + " x",
        " " * LENGTH_MAX,
    ],
    ids=lambda query: f"{query[:12]}… of {len(query)}",
)
def test_hostile_query_is_refused_quickly(query: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest):
        parse(query)
    assert time.process_time() - started < 0.1


@given(some.text("ab'\"\\*=!;,() lt1.\n", max_size=60))
def test_any_text_is_parsed_or_refused(query: str) -> None:
    with suppress(InvalidRequest):
        parse(query)


@pytest.mark.long
@given(some.lists(some.text(min_size=0, max_size=10).filter(lambda text: "\0" not in text), min_size=1, max_size=4))
def test_any_value_can_be_written_with_escapes(pieces: list[str]) -> None:
    for quote in "'\"":
        escaped = "*".join(
            "".join(f"\\{each}" if each in f"\\*{quote}" else each for each in piece) for piece in pieces
        )
        assert parse(f"a=={quote}{escaped}{quote}") == equal(*pieces)
