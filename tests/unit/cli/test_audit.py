"""`publisher audit list`, and the audit entries of changes that the command makes."""

from __future__ import annotations

import os
import pwd

from publisher.store import Store
from publisher.store.database import Actor
from tests.command import Cli

ME = pwd.getpwuid(os.getuid()).pw_name


def test_changes_from_the_terminal_are_in_the_audit_log(cli: Cli) -> None:
    cli.ok("users", "add", "anna", "--password-stdin", input="another secret\n", LOGNAME="somebody-else")
    cli.ok("roles", "add", "readers", "--entitlement", "image_generate")
    image = cli.json("images", "add", cli.image_file(), "--appliance", 4)
    cli.ok("publish", image["id"], "--platform", "memory", "--login", "x", OS_PASSWORD="hunter2")
    cli.ok("cancel", 1)

    entries = cli.json("audit", "list")["entries"]
    assert [(each["action"], each["object"]) for each in reversed(entries)] == [
        ("user.create", "users/root"),
        ("user.create", "users/anna"),
        ("role.create", "roles/readers"),
        ("image.create", image["uri"]),
        ("ticket.create", f"{image['uri']}/pimages/1"),
        ("ticket.cancel", f"{image['uri']}/pimages/1"),
    ]
    assert {(each["user"], each["door"], each["address"]) for each in entries} == {(ME, "terminal", None)}
    assert "secret" not in str(entries)
    assert "hunter2" not in str(entries)


def test_audit_list_is_filtered_and_paged(cli: Cli, cli_store: Store) -> None:
    for number in range(3):
        cli_store.audit.add(Actor("anna", "api", "192.0.2.1"), "account.delete", f"users/anna/accounts/{number}")
    assert [each["id"] for each in cli.json("audit", "list", "--user", "anna", "--count", 2)["entries"]] == [4, 3]
    assert [each["id"] for each in cli.json("audit", "list", "--user", "anna", "--before", 3)["entries"]] == [2]
    (found,) = cli.json("audit", "list", "--object", "users/anna/accounts/1")["entries"]
    assert found["id"] == 3
    (line,) = cli.ok("audit", "list", "--count", 1).splitlines()
    assert line.split("\t")[2:] == ["anna", "api", "192.0.2.1", "account.delete", "users/anna/accounts/2", ""]


def test_control_characters_are_escaped(cli: Cli, cli_store: Store) -> None:
    cli_store.audit.add(Actor("\x1b[2Jä", "api"), "sign_in.limited", "users/x")
    assert "\\x1b[2Jä" in cli.ok("audit", "list", "--count", 1)
