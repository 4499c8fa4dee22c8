from __future__ import annotations

import pytest

from publisher.core.store import Store
from publisher.core.store.users import verify_password
from tests.unit.cli.conftest import Cli


def test_a_user_is_added_and_listed(cli: Cli, cli_store: Store) -> None:
    cli.ok("users", "add", "anna", "--entitlement", "image_publish", "--password-stdin", input="open sesame\n")

    anna, root = cli.json("users", "list")["users"]
    assert anna == {"login": "anna", "administrator": False, "entitlements": ["image_publish"], "roles": []}
    assert root["administrator"]
    assert verify_password(cli_store.users.password_hash("anna"), "open sesame")
    assert "anna\tuser\timage_publish" in cli.ok("users", "list")


def test_a_generated_password_is_printed(cli: Cli, cli_store: Store) -> None:
    said = cli.ok("users", "add", "anna", "--generate")

    password = said.splitlines()[-1].removeprefix("Password: ")
    assert len(password) >= 20
    assert verify_password(cli_store.users.password_hash("anna"), password)


def test_a_password_is_changed(cli: Cli, cli_store: Store) -> None:
    kept = cli.directory / "root.password"
    kept.write_text("secret\n")

    cli.ok("users", "passwd", "root", "--password-stdin", input="another\n")

    assert verify_password(cli_store.users.password_hash("root"), "another")
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "root", "--password-stdin"], "there is a user 'root' already"),
        (["add", "a/b", "--password-stdin"], "login: "),
        (["add", "anna", "--password-stdin", "--entitlement", "all"], "entitlements: unknown: all"),
        (["add", "anna", "--password-stdin", "--generate"], "either --password-stdin or --generate"),
        (["add", "anna"], "use --password-stdin or --generate"),
        (["passwd", "anna", "--password-stdin"], "there is no user 'anna'"),
    ],
)
def test_refusals(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli.run("users", *arguments, input="secret\n")

    assert result.exit_code == 2
    assert words in result.stderr


def test_an_empty_password_is_refused(cli: Cli) -> None:
    assert cli.run("users", "add", "anna", "--password-stdin", input="\n").exit_code == 2


def test_told_by_webhook(cli: Cli, cli_store: Store) -> None:
    url = "https://hooks.example.com/publications"
    said = cli.ok("users", "notify", "root", url).splitlines()
    assert said[0] == f"'root' is told at {url}"
    secret = said[1].removeprefix("Secret: ")
    assert secret.startswith("whsec_")
    assert secret.encode() not in (cli_store.users.notify("root").sealed_secret or b"")
    assert cli.ok("users", "notify", "root") == f"'root' is told at {url}\n"
    assert cli.ok("users", "notify", "root", f"{url}2") == f"'root' is told at {url}2\n", "with the same secret"
    other = cli.json("users", "notify", "root", "--new-secret")
    assert other.pop("secret") not in ("", secret)
    assert other == {"login": "root", "url": f"{url}2", "signed": True}
    assert cli.ok("users", "notify", "root", "--off") == "'root' is not told of its publications\n"
    assert cli.json("users", "notify", "root") == {"login": "root", "url": None, "signed": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "there is no user 'nobody'"),
        (["nobody", "https://hooks.example.com"], "there is no user 'nobody'"),
        (["root", "hooks.example.com"], "url: must be an address"),
        (["root", "https://hooks.example.com", "--off"], "--off goes with nothing else"),
        (["root", "http://127.0.0.1:8080/"], "url: '127.0.0.1' is a loopback address"),
    ],
)
def test_who_cannot_be_told(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli.run("users", "notify", *arguments, PUBLISHER_PRODUCTION="true")
    assert result.exit_code == 2
    assert words in result.stderr
