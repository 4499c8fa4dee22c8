"""Every kind of name is refused if a list, log or terminal cannot show it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from publisher.core.errors import InvalidRequest
from publisher.core.names import check_basic_plane, check_name, safe_name
from publisher.core.vault import Vault
from publisher.store import Store
from publisher.web.auth import new_api_key
from tests.records import OWNER, add_owner

UNDECODED = os.fsdecode(b"b\xff")
"""A command-line argument that is not UTF-8."""

BAD = {
    "": "is needed: 1 to 255 characters",
    "x" * 256: "has 1 to 255 characters, not 256",
    "   ": "consists of blanks only",
    "\u3000": "consists of blanks only",
    "a\r\nb": "has a line break (U+000D) at position 1; leave it out",
    "a\u2028b": "has a line break (U+2028)",
    "\x1b[31m": "has a character that cannot be shown (U+001B) at position 0",
    "a\u202eb": "has a character that cannot be shown (U+202E)",
    "a\0": "has a character that cannot be shown (U+0000)",
    UNDECODED: "is not UTF-8",
    "b\ufffd": "is not UTF-8",
    " a": "has a blank at its beginning or end",
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_name(name, "name")
    assert str(raised.value).startswith(f"name: {BAD[name]}")
    assert raised.value.field == "name"


@pytest.mark.parametrize("name", ["a", "Årgång 日本", "web \U0001f600", "a" * 255])
def test_a_name_in_any_script_is_accepted(name: str) -> None:
    assert check_name(name, "name") == name


def test_character_outside_the_basic_plane_is_refused() -> None:
    check_basic_plane("日本 \uffee", "displayName", "openstack")
    with pytest.raises(InvalidRequest, match=r"displayName: has the character U\+1F600, which openstack does not take"):
        check_basic_plane("web \U0001f600", "displayName", "openstack")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("disk.img", "disk.img"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "image"),
        ("a\0b\nc", "a_b_c"),
        (UNDECODED, "b_"),
        ("x" * 300, "x" * 200),
    ],
)
def test_file_name_is_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


MAKERS: dict[str, Callable[[Store, str], object]] = {
    "account": lambda store, name: store.accounts.add(
        owner=OWNER, name=name, platform="openstack", fields={}, sealed_secrets=b""
    ),
    "appliance": lambda store, name: store.appliances.add(OWNER, name=name),
    "role": lambda store, name: store.roles.add(name, entitlements=frozenset({"image_publish"})),
    "login": lambda store, name: store.users.add(name, "a password"),
}


@pytest.mark.parametrize("what", MAKERS)
@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\u2028b", "\x1b[31m", UNDECODED, "b\ufffd", "x" * 256])
def test_store_refuses_an_invalid_name(sqlite_store: Store, what: str, name: str) -> None:
    add_owner(sqlite_store)
    with pytest.raises(InvalidRequest) as raised:
        MAKERS[what](sqlite_store, name)
    assert raised.value.field == ("login" if what == "login" else "name")
    assert str(raised.value).startswith(f"{raised.value.field}: ")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m", "b\ufffd", "x" * 256])
def test_an_api_key_with_a_bad_name_is_refused(sqlite_store: Store, tmp_path: Path, name: str) -> None:
    add_owner(sqlite_store)
    vault = Vault.from_file(tmp_path / "key")
    with pytest.raises(InvalidRequest, match=r"^name: "):
        new_api_key(sqlite_store, vault, OWNER, name, "")
    assert new_api_key(sqlite_store, vault, OWNER, "mine", "of two\nlines")
