"""Show, change and delete an image, a ticket or an account; publish with a stored account."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.store import Store
from tests.command import Cli
from tests.records import add_ticket

KEYSTONE = "https://cloud.example.com:5000"


@pytest.fixture
def account(cli: Cli) -> str:
    cli.ok("accounts", "add", "lab", "--keystone-url", KEYSTONE, "--login", "demo", OS_PASSWORD="first")
    return "lab"


def secret(store: Store, name: str) -> str:
    found = store.accounts.find("root", name=name)
    assert found
    return Vault.from_file(Settings.from_environment().key_file).open(found.sealed_secrets)["password"]


def test_an_image_is_shown_and_deleted(cli: Cli) -> None:
    image = cli.json("images", "add", cli.image_file(), "--name", "web", "--format", "raw")
    assert image["appliance_id"] == 1
    assert cli.json("images", "show", image["id"]) == image
    assert f"SHA-256   {image['sha256']}\n" in cli.ok("images", "show", image["id"])

    refused = cli.run("images", "delete", image["id"])
    assert (refused.exit_code, "use --yes" in refused.stderr) == (2, True)
    assert (cli.directory / "images" / image["location"]).exists()
    assert cli.json("images", "delete", image["id"], "--yes") == {"deleted": [image["id"]]}
    assert not (cli.directory / "images" / image["location"]).exists()
    gone = cli.run("images", "show", image["id"])
    assert (gone.exit_code, "there is no image 1; see: publisher images list" in gone.stderr) == (2, True)


def test_ticket_is_shown_retried_and_deleted(cli: Cli, cli_store: Store) -> None:
    id = add_ticket(cli_store).id
    assert cli.json("tickets", "show", id)["state"] == "queued"
    assert cli.json("tickets", "show", id, "--history")["history"][0]["to_state"] == "queued"
    for command in ("retry", "delete"):
        refused = cli.run("tickets", command, id, *(["--yes"] if command == "delete" else []))
        assert (refused.exit_code, f"ticket {id} is queued" in refused.stderr) == (2, True)

    cli.ok("cancel", id)
    assert cli.json("tickets", "retry", id)["state"] == "queued"
    cli.ok("cancel", id)
    assert "use --yes" in cli.run("tickets", "delete", id).stderr
    assert cli_store.tickets.get(id)
    assert cli.ok("tickets", "delete", id, "--yes") == f"Deleted ticket {id}\n"
    assert cli_store.tickets.get(id) is None
    assert cli.run("tickets", "show", id).exit_code == 2


def test_a_published_image_is_withdrawn(cli: Cli, cli_store: Store, account: str) -> None:
    stored = cli_store.accounts.find("root", name=account)
    assert stored
    values = {"platform": "openstack", "account": stored.fields | {"name": account}, "account_id": stored.id}
    id = add_ticket(cli_store, **values).id
    claim = cli_store.leases.claim(id, "w", 60)
    assert claim
    cli_store.leases.published(claim, cloud_id="c-1", location=None)
    assert "use --yes" in cli.run("tickets", "withdraw", id).stderr
    asked = cli.run("tickets", "withdraw", id, "--yes", "--wait", "--timeout", "0")
    assert (asked.exit_code, f"Ticket {id} is withdrawing" in asked.stdout) == (4, True)
    refused = cli.run("tickets", "delete", id, "--yes")
    assert (refused.exit_code, "wait for its end" in refused.stderr) == (2, True)
    held = cli_store.leases.claim(id, "w", 60)
    assert held
    cli_store.leases.withdrawn(held, words="Withdrawn")
    assert cli.json("tickets", "withdraw", id, "--wait")["state"] == "withdrawn"
    assert "is no longer in the cloud" in cli.ok("tickets", "withdraw", id)
    assert cli.run("status", id, "--wait").exit_code == 3


def test_a_withdrawal_without_a_stored_account_is_refused(cli: Cli, cli_store: Store) -> None:
    id = add_ticket(cli_store).id
    claim = cli_store.leases.claim(id, "w", 60)
    assert claim
    cli_store.leases.published(claim, cloud_id="c-1", location=None)
    refused = cli.run("tickets", "withdraw", id, "--yes")
    assert (refused.exit_code, "credAccount: is needed to withdraw" in refused.stderr) == (2, True)


def test_retry_wait_stops_at_the_timeout(cli: Cli, cli_store: Store) -> None:
    id = add_ticket(cli_store).id
    cli.ok("cancel", id)
    assert cli.run("tickets", "retry", id, "--wait", "--timeout", "0").exit_code == 4


def test_an_account_is_shown_without_its_password(cli: Cli, account: str) -> None:
    assert cli.json("accounts", "show", account) == cli.json("accounts", "list")["accounts"][0]
    shown = cli.ok("accounts", "show", account)
    assert f"keystoneUrl  {KEYSTONE}\n" in shown
    assert "first" not in shown
    assert cli.run("accounts", "show", "none").exit_code == 2


def test_an_account_is_changed(cli: Cli, cli_store: Store, account: str) -> None:
    changed = cli.json("accounts", "set", account, "--keystone-version", "v3", "--rename", "new")
    assert changed["fields"]["keystone_version"] == "v3"
    assert secret(cli_store, "new") == "first"
    cli.ok("accounts", "set", "new", "--password-stdin", "--login", "other", input="second\n")
    assert secret(cli_store, "new") == "second"
    assert cli.json("accounts", "set", "new", "--keystone-version", "")["fields"]["keystone_version"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to change"),
        (["--login", "other"], "the password is needed again"),
        (["--keystone-url", "https://other.example.com:5000"], "the password is needed again"),
        (["--keystone-url", "ftp://x"], "keystoneUrl: must be an address"),
        (["--new-password", "--password-stdin"], "use either"),
        (["--rename", ""], "nothing to change"),
    ],
)
def test_invalid_change_of_an_account_is_refused(
    cli: Cli, cli_store: Store, account: str, options: list[str], words: str
) -> None:
    result = cli.run("accounts", "set", account, *options, OS_PASSWORD="of another cloud", OS_USERNAME="another")
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert secret(cli_store, account) == "first"
    assert cli.json("accounts", "show", account)["fields"] == {"keystone_url": KEYSTONE, "login": "demo"}


def test_stored_account_replaces_the_openstack_variables(cli: Cli, cli_store: Store, account: str) -> None:
    variables = {"OS_AUTH_URL": "https://other.example.com", "OS_USERNAME": "other", "OS_PASSWORD": "another"}
    variables |= {"OS_PROJECT_NAME": "another", "OS_REGION_NAME": "Elsewhere"}
    file = cli.image_file()
    given = ["--format", "raw", "--account", account, "--project", "demo"]
    ticket = cli.json("publish", file, *given, **variables)

    found = cli_store.tickets.get(ticket["id"])
    stored = cli_store.accounts.find("root", name=account)
    assert found
    assert stored
    assert found.account_id == stored.id
    assert found.account == {"keystoneUrl": KEYSTONE, "login": "demo", "name": account}
    assert found.target["keystoneProject"] == "demo"
    assert "publishLocation" not in found.target


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--account", "none"], "root has no account 'none'"),
        (["--account", "lab", "--login", "x"], "--login: the account 'lab' has its own"),
        (["--account", "lab", "--password-stdin"], "--password-stdin: the account 'lab' has its own"),
        (["--account", "lab", "--platform", "memory"], "--platform: 'lab' is an account of openstack"),
    ],
)
def test_options_that_contradict_a_stored_account_are_refused(
    cli: Cli, account: str, options: list[str], words: str
) -> None:
    result = cli.run("publish", cli.image_file(), "--format", "raw", *options, input="x\n")
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert cli.json("images", "list") == {"images": []}


def test_refused_publication_leaves_no_image(cli: Cli) -> None:
    cli.ok("images", "add", cli.image_file(), "--format", "raw")
    options = ["--platform", "memory", "--login", "x", "--format", "raw"]
    first = cli.json("publish", cli.image_file(), *options, OS_PASSWORD="x", PUBLISHER_QUEUE_MAX="1")
    refused = cli.run("publish", cli.image_file(), *options, OS_PASSWORD="x", PUBLISHER_QUEUE_MAX="1")
    assert refused.exit_code == 1
    assert len(cli.json("images", "list")["images"]) == 2
    assert len(list((cli.directory / "images").glob("[0-9a-f]*"))) == 2
    assert first["state"] == State.QUEUED


@pytest.mark.long
def test_account_test_reports_whether_sign_in_works(cli: Cli) -> None:
    """The memory cloud accepts every login but `refuse`."""
    for name, login in (("good", "x"), ("bad", "refuse")):
        cli.ok(
            "accounts", "add", name, "--platform", "memory", "--login", login, "--password-stdin", input="x\n"
        )  # fmt: skip
    told = {}
    for name in ("good", "bad"):
        command = [sys.executable, "-m", "publisher.cli.main", "accounts", "test", name]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=150, check=False)
        told[name] = done.returncode, done.stdout
    assert told["good"] == (
        0,
        "works   sign in: signed in to memory as 'x'\nworks   images: the cloud lists 0 images of this installation\n",
    )
    assert told["bad"] == (
        1,
        "FAILED  sign in: the memory cloud refused the login; check login and password\n",
    )
    assert cli.run("accounts", "test", "none").exit_code == 2
