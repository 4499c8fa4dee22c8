from __future__ import annotations

import pytest

from publisher.store import Store
from tests.command import Cli


@pytest.fixture(autouse=True)
def _roles(cli: Cli) -> None:
    cli.ok(
        *("roles", "add", "operators", "--entitlement", "image_publish", "--entitlement", "image_generate"),
        *("--description", "Publish and look"),
    )
    cli.ok("roles", "add", "keys", "--entitlement", "api_key_access")


def test_roles_are_listed(cli: Cli) -> None:
    assert cli.json("roles", "list")["roles"] == [
        {"name": "keys", "description": "", "entitlements": ["api_key_access"]},
        {"name": "operators", "description": "Publish and look", "entitlements": ["image_generate", "image_publish"]},
    ]
    assert "operators\timage_generate, image_publish\tPublish and look" in cli.ok("roles", "list")


def test_user_has_only_the_rights_of_its_role(cli: Cli, cli_store: Store) -> None:
    cli.ok("users", "add", "anna", "--role", "operators", "--password-stdin", input="x\n")

    anna = cli_store.users.get("anna")
    assert anna is not None
    assert anna.entitlements == frozenset()
    assert (anna.may("image_publish"), anna.may("api_key_access")) == (True, False)
    assert "anna\tuser\t\toperators" in cli.ok("users", "list")


def test_roles_of_a_user_are_added_and_removed(cli: Cli) -> None:
    cli.ok("users", "add", "anna", "--role", "operators", "--password-stdin", input="x\n")

    assert cli.ok("users", "roles", "anna") == "operators\timage_generate, image_publish\n"
    changed = cli.json("users", "roles", "anna", "--add", "keys", "--remove", "operators")
    assert changed == {"login": "anna", "roles": ["keys"]}

    refused = cli.run("roles", "remove", "keys", "--yes")
    assert (refused.exit_code, "a role of anna" in refused.stderr) == (2, True)
    cli.ok("users", "roles", "anna", "--remove", "keys")
    cli.ok("roles", "remove", "keys", "--yes")
    assert [role["name"] for role in cli.json("roles", "list")["roles"]] == ["operators"]


def test_a_user_is_removed(cli: Cli, cli_store: Store) -> None:
    cli.ok("users", "add", "anna", "--password-stdin", input="x\n")

    cli.ok("users", "remove", "anna", "--yes")

    assert [user.login for user in cli_store.users.list()] == ["root"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["roles", "add", "keys", "--entitlement", "image_publish"], "there is a role 'keys' already"),
        (["roles", "add", "x", "--entitlement", "fly"], "entitlements: unknown: fly"),
        (["roles", "add", "x"], "--entitlement"),
        (["roles", "remove", "x"], "there is no role 'x'"),
        (["users", "add", "x", "--role", "none", "--password-stdin"], "roles: there is no role none"),
        (["users", "roles", "root", "--add", "none"], "roles: there is no role none"),
        (["users", "roles", "root", "--remove", "keys"], "roles: 'root' does not have: keys"),
        (["users", "roles", "nobody"], "there is no user 'nobody'"),
        (["users", "remove", "nobody"], "there is no user 'nobody'"),
        (["users", "remove", "root", "--yes"], "the last administrator"),
    ],
)
def test_invalid_arguments_are_refused_with_a_reason(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli.run(*arguments, input="x\n")

    assert result.exit_code == 2
    assert words in result.stderr
