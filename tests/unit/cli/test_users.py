from __future__ import annotations

import pytest

from publisher.store import Store
from publisher.store.users import verify_password
from tests.command import Cli
from tests.records import password_hash
from tests.unit.cli.terminal import on_a_terminal


def test_a_user_is_added_and_listed(cli: Cli, cli_store: Store) -> None:
    cli.ok("users", "add", "anna", "--entitlement", "image_publish", "--password-stdin", input="open sesame\n")

    anna, root = cli.json("users", "list")["users"]
    assert anna == {"login": "anna", "administrator": False, "entitlements": ["image_publish"], "roles": []}
    assert root["administrator"]
    assert verify_password(password_hash(cli_store, "anna"), "open sesame")
    assert "anna\tuser\timage_publish" in cli.ok("users", "list")


def test_new_user_has_no_rights_by_default(cli: Cli, cli_store: Store) -> None:
    result = cli.run("users", "add", "anna", "--password-stdin", input="x\n")

    anna = cli_store.users.get("anna")
    assert anna
    assert (anna.administrator, anna.entitlements, anna.roles) == (False, frozenset(), ())
    assert result.exit_code == 0
    assert "users roles anna --add ROLE" in result.stderr


def test_a_generated_password_is_written_to_a_file(cli: Cli, cli_store: Store) -> None:
    file = cli.directory / "anna.password"

    said = cli.ok("users", "add", "anna", "--generate-to", file)

    password = file.read_text().strip()
    assert len(password) >= 20
    assert password not in said
    assert file.stat().st_mode & 0o777 == 0o600
    assert verify_password(password_hash(cli_store, "anna"), password)
    again = cli.run("users", "passwd", "anna", "--generate-to", file)
    assert (again.exit_code, "exists" in again.stderr) == (2, True)
    failed = cli.run("users", "add", "anna", "--generate-to", cli.directory / "another")
    assert (failed.exit_code, (cli.directory / "another").exists()) == (2, False)


@pytest.mark.parametrize("command", ["add", "passwd"])
def test_generated_password_is_not_printed_without_a_terminal(cli: Cli, cli_store: Store, command: str) -> None:
    login = "anna" if command == "add" else "root"
    before = password_hash(cli_store, "root")

    result = cli.run("users", command, login, "--generate")

    assert result.exit_code == 2
    assert "--generate-to FILE" in result.stderr
    assert result.stdout == ""
    assert cli_store.users.get("anna") is None
    assert password_hash(cli_store, "root") == before


@pytest.mark.long
def test_generated_password_is_shown_on_a_terminal(cli: Cli, cli_store: Store) -> None:
    _, said = on_a_terminal("users", "add", "anna", "--generate")
    password = said.partition("Password: ")[2].splitlines()[0].strip()
    assert verify_password(password_hash(cli_store, "anna"), password)


@pytest.mark.long
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_removal_on_a_terminal_asks_for_confirmation(cli: Cli, cli_store: Store, answer: str, code: int) -> None:
    cli_store.users.add("anna", "x")
    ended, said = on_a_terminal("users", "remove", "anna", answer=answer)
    assert (ended, "Remove the user 'anna', with its cloud accounts" in said) == (code, True)
    assert (cli_store.users.get("anna") is None) == (answer == "y")


def test_password_is_read_from_a_file(cli: Cli, cli_store: Store) -> None:
    file = cli.directory / "given"
    file.write_text("open sesame\nand a second line\n")
    cli.ok("users", "add", "anna", "--password-file", file)
    assert verify_password(password_hash(cli_store, "anna"), "open sesame")
    file.write_text("\n")
    assert "contains no password" in cli.run("users", "passwd", "anna", "--password-file", file).stderr


def test_removal_without_a_terminal_needs_yes(cli: Cli, cli_store: Store) -> None:
    cli.ok("users", "add", "anna", "--password-stdin", input="x\n")
    refused = cli.run("users", "remove", "anna", input="y\n")
    assert (refused.exit_code, "use --yes" in refused.stderr) == (2, True)
    assert cli_store.users.get("anna")
    assert cli.ok("users", "remove", "anna", "--yes") == "Removed the user 'anna'\n"
    assert cli_store.users.get("anna") is None


def test_a_password_is_changed(cli: Cli, cli_store: Store) -> None:
    kept = cli.directory / "root.password"
    kept.write_text("secret\n")

    cli.ok("users", "passwd", "root", "--password-stdin", input="another\n")

    assert verify_password(password_hash(cli_store, "root"), "another")
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "root", "--password-stdin"], "there is a user 'root' already"),
        (["add", "a/b", "--password-stdin"], "login: "),
        (["add", "anna", "--password-stdin", "--entitlement", "all"], "entitlements: unknown: all"),
        (["add", "anna", "--password-stdin", "--generate"], "use only one of --password-stdin"),
        (["add", "anna"], "use --password-stdin, --password-file or --generate-to"),
        (["passwd", "anna", "--password-stdin"], "there is no user 'anna'"),
    ],
)
def test_invalid_arguments_are_refused_with_a_reason(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli.run("users", *arguments, input="secret\n")

    assert result.exit_code == 2
    assert words in result.stderr


def test_an_empty_password_is_refused(cli: Cli) -> None:
    assert cli.run("users", "add", "anna", "--password-stdin", input="\n").exit_code == 2


def test_webhook_is_set_changed_and_removed(cli: Cli, cli_store: Store) -> None:
    url = "https://hooks.example.com/publications"
    first = cli.run("users", "notify", "root", url)
    assert first.stdout == f"Webhook of 'root': {url}\n", "no secret without a terminal"
    assert "users notify root --new-secret --json" in first.stderr
    secret = cli.json("users", "notify", "root", "--new-secret")["secret"]
    assert secret.startswith("whsec_")
    assert secret.encode() not in (cli_store.users.notify("root").sealed_secret or b"")
    assert cli.ok("users", "notify", "root") == f"Webhook of 'root': {url}\n"
    assert cli.ok("users", "notify", "root", f"{url}2") == f"Webhook of 'root': {url}2\n", "with the same secret"
    other = cli.json("users", "notify", "root", "--new-secret")
    assert other.pop("secret") not in ("", secret)
    assert other == {"login": "root", "url": f"{url}2", "signed": True}
    assert cli.ok("users", "notify", "root", "--off") == "'root' has no webhook\n"
    assert cli.json("users", "notify", "root") == {"login": "root", "url": None, "signed": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "there is no user 'nobody'"),
        (["nobody", "https://hooks.example.com"], "there is no user 'nobody'"),
        (["root", "hooks.example.com"], "url: must be an address"),
        (["root", "https://hooks.example.com", "--off"], "--off cannot be combined with other options"),
        (["root", "http://127.0.0.1:8080/"], "url: '127.0.0.1' is a loopback address"),
    ],
)
def test_invalid_webhook_arguments_are_refused(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli.run("users", "notify", *arguments, PUBLISHER_PRODUCTION="true")
    assert result.exit_code == 2
    assert words in result.stderr
