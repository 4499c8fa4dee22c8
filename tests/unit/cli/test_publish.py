"""Publish an image and follow its ticket. No worker runs: where one is needed, the test writes to the store."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from publisher.cli import preflights, tickets_command
from publisher.cli.command import Installation, read_settings
from publisher.core.cloud_check import CheckResult
from publisher.core.errors import Reason
from publisher.core.settings import Settings
from publisher.core.ticket import Phase
from publisher.core.vault import Vault
from publisher.services.wakeups import WakeQueue
from publisher.store import Store
from publisher.store.leases import Claim
from tests.command import Cli

PASSWORD = "hunter2-of-the-cloud"
MEMORY = ("--platform", "memory", "--login", "x")


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets_command, "_POLL_SECONDS", 0.02)


@pytest.fixture
def ticket(cli: Cli) -> int:
    return int(cli.json("publish", cli.image_file(), *MEMORY, OS_PASSWORD=PASSWORD)["id"])


def claimed(store: Store, ticket: int) -> Claim:
    claim = store.leases.claim(ticket, "a-worker", 60)
    assert claim
    return claim


def test_a_file_is_registered_and_its_ticket_waits_for_a_worker(cli: Cli, cli_store: Store) -> None:
    result = cli.run("publish", cli.image_file(), *MEMORY, "--name", "shown", OS_PASSWORD=PASSWORD)

    assert result.exit_code == 0
    assert "publisher status 1" in result.stdout
    assert "waits for a worker; run: publisher up" in result.stderr
    assert cli.json("images", "list")["images"][0]["appliance_id"] == 1
    shown = cli.json("status", 1, "--history")
    assert (shown["state"], shown["name"], shown["percentage"]) == ("queued", "shown", 0)
    assert shown["created"].endswith("+00:00")
    assert [entry["words"] for entry in shown["history"]] == ["Accepted"]
    assert "queued" in cli.ok("status", 1, "--history")
    assert cli.json("tickets", "list")["tickets"][0]["id"] == 1
    assert PASSWORD not in cli.ok("tickets", "list") + result.output


def test_openstack_variables_fill_account_and_target(cli: Cli, cli_store: Store) -> None:
    cli.ok("images", "add", cli.image_file(), "--appliance", 4, "--id", 7)
    cli.ok(
        *("publish", "7", "--public", "--keystone-version", "v3"),
        OS_AUTH_URL="http://cloud.example.com:5000/v3",
        OS_USERNAME="anna",
        OS_PASSWORD=PASSWORD,
        OS_PROJECT_NAME="demo",
        OS_USER_DOMAIN_NAME="Default",
        OS_REGION_NAME="RegionOne",
    )

    ticket = cli_store.tickets.get(1)
    assert ticket
    assert ticket.appliance_id == 4
    assert ticket.account == {
        "keystoneUrl": "http://cloud.example.com:5000/v3",
        "login": "anna",
        "userDomain": "Default",
        "keystoneVersion": "v3",
    }
    assert ticket.target == {
        "keystoneProject": "demo",
        "publishLocation": "RegionOne",
        "displayName": "disk",
        "publicImage": True,
    }
    assert ticket.sealed_secrets
    vault = Vault.from_file(Settings.from_environment().key_file)
    assert vault.open(ticket.sealed_secrets) == {"password": PASSWORD}


@pytest.mark.parametrize(
    ("options", "told", "expected"),
    [
        (
            [],
            {
                "OS_PROJECT_ID": "4711", "OS_PROJECT_NAME": "demo", "OS_USER_DOMAIN_NAME": "people",
                "OS_PROJECT_DOMAIN_ID": "0815", "OS_INTERFACE": "internal",
            },
            {"keystoneProject": "4711", "userDomain": "people", "keystoneDomain": "0815", "interface": "internal"},
        ),
        (
            [],
            {"OS_PROJECT_NAME": "demo", "OS_PROJECT_DOMAIN_NAME": "lab"},
            {"keystoneProject": "demo", "keystoneDomain": "lab", "userDomain": "default"},
        ),
        (
            [],
            {"OS_PROJECT_NAME": "demo", "OS_USER_DOMAIN_NAME": "people"},
            {"keystoneProject": "demo", "userDomain": "people"},
        ),
        (
            [],
            {"OS_DOMAIN_NAME": "both", "OS_USER_DOMAIN_NAME": "people"},
            {"keystoneDomain": "both", "userDomain": "people"},
        ),
        (
            [],
            {"OS_DOMAIN_ID": "0815", "OS_USER_DOMAIN_NAME": "people"},
            {"keystoneDomain": "0815", "userDomain": "0815"},
        ),
        ([], {"OS_DEFAULT_DOMAIN": "most"}, {"keystoneDomain": "most", "userDomain": "most"}),
        ([], {"OS_TENANT_ID": "4711", "OS_PROJECT_NAME": "demo"}, {"keystoneProject": "4711"}),
        ([], {"OS_TENANT_NAME": "demo"}, {"tenantName": "demo"}),
        (["--domain", "given"], {"OS_PROJECT_DOMAIN_NAME": "lab"}, {"keystoneDomain": "given"}),
        (
            ["--domain", "given"],
            {"OS_USER_DOMAIN_NAME": "people"},
            {"keystoneDomain": "given", "userDomain": "people"},
        ),
        (["--tenant", "given"], {"OS_PROJECT_NAME": "demo"}, {"tenantName": "given"}),
        (["--user-domain", "given"], {"OS_USER_DOMAIN_ID": "0815"}, {"userDomain": "given"}),
        (["--interface", "admin"], {"OS_INTERFACE": "public"}, {"interface": "admin"}),
    ],
    ids=str,
)  # fmt: skip
def test_variables_are_read_as_the_openstack_command_reads_them(
    cli: Cli, cli_store: Store, options: list[str], told: dict[str, str], expected: dict[str, str]
) -> None:
    """Variables combine. An id takes precedence over a name, and an option over all variables."""
    login = {"OS_AUTH_URL": "http://cloud.example.com:5000", "OS_USERNAME": "anna", "OS_PASSWORD": PASSWORD}
    cli.ok("publish", cli.image_file(), *options, **login, **told)
    ticket = cli_store.tickets.get(1)
    assert ticket
    names = {"keystoneProject", "keystoneDomain", "tenantName", "userDomain", "interface"}
    assert {name: value for name, value in (ticket.account | ticket.target).items() if name in names} == expected


OPENSTACK = ("--keystone-url", "http://cloud.example.com", "--login", "x")


def test_options_give_the_image_its_attributes(cli: Cli, cli_store: Store) -> None:
    cli.ok(
        *("publish", cli.image_file(), *OPENSTACK, "--property", "os_distro=debian", "--property", "a=b=c"),
        *("--tag", "golden", "--tag", "web", "--visibility", "shared", "--share", "lab", "--share", "web"),
        *("--hidden", "--protected", "--min-disk", 20, "--min-ram", 512),
        OS_PASSWORD=PASSWORD,
    )
    ticket = cli_store.tickets.get(1)
    assert ticket
    assert ticket.target == {
        "displayName": "disk",
        "properties": [{"name": "os_distro", "value": "debian"}, {"name": "a", "value": "b=c"}],
        "tags": ["golden", "web"],
        "visibility": "shared",
        "sharedWith": ["lab", "web"],
        "hidden": True,
        "protected": True,
        "minDisk": 20,
        "minRam": 512,
    }


@pytest.fixture
def stored(cli: Cli) -> tuple[str, ...]:
    cli.ok("accounts", "add", "memo", *MEMORY, "--password-stdin", input=f"{PASSWORD}\n")
    return "publish", str(cli.image_file()), "--account", "memo"


def test_options_say_how_long_images_stay(cli: Cli, cli_store: Store, stored: tuple[str, ...]) -> None:
    lineage = "--lineage", "web", "--older", "withdraw", "--keep", 2
    cli.ok(*stored, "--expires", "2999-01-31T18:00:00+01:00", *lineage)
    ticket = cli_store.tickets.get(1)
    assert ticket
    assert ticket.expires == datetime(2999, 1, 31, 17, tzinfo=UTC).timestamp()
    assert (ticket.lineage, ticket.older, ticket.keep) == ("web", "withdraw", 2)
    assert "2999-01-31" in cli.ok("status", 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--expires", "2020-01-31T18:00:00Z"), "expires: is in the past; it is given by --expires"),
        (("--expires", "soon"), "expires: 'soon' is not a dateTime with an offset"),
        (("--lineage", "web", "--older", "hide", "--keep", "1"), "keep: is used only if older is withdraw; it is"),
        (("--lineage", "web", "--older", "withdraw", "--keep", "0"), "0"),
        (("--lineage", "web", "--older", "x"), "older: 'x' is unknown"),
        (("--older", "hide"), "older: is used only with a lineage"),
    ],
)
def test_a_wrong_lifetime_leaves_no_ticket_and_no_image(
    cli: Cli, stored: tuple[str, ...], options: tuple[str, ...], words: str
) -> None:
    refused = cli.run(*stored, *options)
    assert refused.exit_code == 2
    assert words in " ".join(refused.stderr.split())
    assert cli.json("tickets", "list") == {"tickets": [], "more": False}
    assert cli.json("images", "list") == {"images": []}


def test_a_template_makes_the_name(cli: Cli, cli_store: Store) -> None:
    cli.ok("publish", cli.image_file(), *MEMORY, "--name-template", "{name}-{id}-{version}", OS_PASSWORD=PASSWORD)
    ticket = cli_store.tickets.get(1)
    assert ticket
    assert ticket.name == "disk-1-1"


def test_an_account_has_a_name_template(cli: Cli, cli_store: Store) -> None:
    options = (*MEMORY, "--password-stdin", "--name-template", "{name}!")
    cli.ok("accounts", "add", "memo", *options, input=f"{PASSWORD}\n")
    assert "{name}!" in cli.ok("accounts", "show", "memo")
    cli.ok("publish", cli.image_file(), "--account", "memo")
    ticket = cli_store.tickets.get(1)
    assert ticket
    assert ticket.name == "disk!"
    refused = cli.run("accounts", "set", "memo", "--name-template", "{day}")
    assert refused.exit_code == 2
    assert "nameTemplate: '{day}' is unknown" in refused.stderr
    cli.ok("accounts", "set", "memo", "--name-template", "")
    assert "{name}!" not in cli.ok("accounts", "show", "memo")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--property", "x"), "--property: 'x' has no value; write NAME=VALUE"),
        (("--property", "owner=x"), "'owner' is reserved by openstack or by the publisher; use another name; it is"),
        (("--tag", "a", "--tag", "a"), "'a' is given more than once; it is given by --tag"),
        (("--visibility", "x"), "visibility: 'x' is unknown"),
        (("--public", "--visibility", "private"), "contradicts publicImage, which is true"),
        (("--public", "--share", "lab"), "cannot be used with a public image"),
        (("--min-disk", "0"), "minDisk: 0 GiB are too little"),
        (("--min-disk", "x"), "'x' is not a number"),
        (("--name", "a", "--name-template", "b"), "cannot be used together with displayName"),
    ],
)
def test_a_wrong_attribute_leaves_no_ticket_and_no_image(cli: Cli, options: tuple[str, ...], words: str) -> None:
    refused = cli.run("publish", cli.image_file(), *OPENSTACK, *options, OS_PASSWORD=PASSWORD)
    assert refused.exit_code == 2
    assert words in " ".join(refused.stderr.split())
    assert cli.json("tickets", "list") == {"tickets": [], "more": False}
    assert cli.json("images", "list") == {"images": []}


def test_error_for_an_unknown_interface_names_its_option(cli: Cli) -> None:
    options = ("--keystone-url", "http://cloud.example.com", "--login", "x", "--interface", "outer")
    refused = cli.run("publish", cli.image_file(), *options, OS_PASSWORD=PASSWORD)
    assert refused.exit_code == 2
    assert "'outer' is unknown; use one of public, internal, admin" in refused.stderr
    assert "--interface or OS_INTERFACE" in " ".join(refused.stderr.split())


def test_password_is_read_from_standard_input(cli: Cli, cli_store: Store) -> None:
    cli.ok("publish", cli.image_file(), *MEMORY, "--password-stdin", input=f"{PASSWORD}\n", OS_PASSWORD="other")

    ticket = cli_store.tickets.get(1)
    assert ticket
    assert ticket.sealed_secrets
    assert Vault.from_file(Settings.from_environment().key_file).open(ticket.sealed_secrets)["password"] == PASSWORD


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["99", *MEMORY], "there is no image 99"),
        (["none.img", *MEMORY], "neither the number of an image nor a file"),
        (["FILE"], "credAccount.keystoneUrl"),
        (["FILE", "--platform", "abacus"], "'abacus' is not supported"),
        (["FILE", "--keystone-url", "cloud.example.com", "--login", "x"], "must be an address"),
        (["FILE", *MEMORY, "--user", "anna"], "there is no user 'anna'"),
        (["FILE", *MEMORY, "--format", "qcow2"], "means a qcow2 file"),
    ],
)
def test_refused_publication_leaves_no_ticket_and_no_image(cli: Cli, arguments: list[str], words: str) -> None:
    file = str(cli.image_file())

    result = cli.run("publish", *(file if each == "FILE" else each for each in arguments), OS_PASSWORD=PASSWORD)

    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert cli.json("tickets", "list") == {"tickets": [], "more": False}
    assert cli.json("images", "list") == {"images": []}


def test_image_of_another_user_is_not_found(cli: Cli) -> None:
    cli.ok("images", "add", cli.image_file(), "--appliance", 4)

    result = cli.run("publish", "1", *MEMORY, "--user", "anna", OS_PASSWORD=PASSWORD)

    assert result.exit_code == 2
    assert "appliance 4 of anna has no image 1" in result.stderr


def test_missing_password_without_a_terminal_is_refused(cli: Cli) -> None:
    result = cli.run("publish", cli.image_file(), *MEMORY)

    assert result.exit_code == 2
    assert "set OS_PASSWORD, or use --password-stdin" in result.stderr


def publish(store: Store, claim: Claim) -> None:
    store.leases.published(claim, cloud_id="an-id", location="somewhere")


def publish_parts(store: Store, claim: Claim) -> None:
    store.leases.published(claim, cloud_id="a-handle", location="somewhere", shown_id="ami-7")


def fail(store: Store, claim: Claim) -> None:
    store.leases.failed(claim, error="the cloud is full")


def cancel(store: Store, claim: Claim) -> None:
    store.tickets.request_cancel(claim.ticket.id)
    store.leases.cancelled(claim)


@pytest.mark.long
@pytest.mark.parametrize(
    ("end", "code", "stdout", "stderr"),
    [
        (publish, 0, "published to memory as an-id", ""),
        (publish_parts, 0, "published to memory as ami-7", ""),
        (fail, 1, "", "Error: ticket 1 failed: the cloud is full\n"),
        (cancel, 3, "Ticket 1 was cancelled", ""),
    ],
)
def test_wait_shows_progress_and_exits_with_the_outcomes_code(
    cli: Cli, cli_store: Store, ticket: int, end: Callable[[Store, Claim], None], code: int, stdout: str, stderr: str
) -> None:
    shown: list[int] = []

    def work() -> None:
        claim = claimed(cli_store, ticket)
        cli_store.leases.phase(claim, Phase.UPLOADING, "Uploading")
        for sent in (600, 3000, 3001, 6000):
            cli_store.leases.renew(claim, 60, sent=sent)
            shown.append(sent)
            time.sleep(0.15)
        end(cli_store, claim)

    worker = threading.Thread(target=work)
    worker.start()
    result = cli.run("status", ticket, "--wait", "--timeout", "30")
    worker.join()

    assert result.exit_code == code, result.output
    assert stdout in result.stdout
    assert result.stderr == stderr
    assert result.stdout.count(", 50 %") == 1
    assert ", 99 %" in result.stdout, "100 % only once the cloud has answered"


@pytest.mark.long
def test_progress_bar_is_drawn_on_a_terminal(cli: Cli, cli_store: Store, ticket: int) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    installation = Installation(read_settings(), cli_store)

    assert tickets_command.watch(installation, ticket, console=terminal, timeout_seconds=0) == 4
    claim = claimed(cli_store, ticket)
    cli_store.leases.phase(claim, Phase.UPLOADING, "Uploading")
    cli_store.leases.renew(claim, 60, sent=3000)
    assert tickets_command.watch(installation, ticket, console=terminal, timeout_seconds=0.3) == 4
    publish(cli_store, claim)
    assert tickets_command.watch(installation, ticket, console=terminal) == 0

    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert f"Ticket {ticket}: Queued" in shown
    assert " 50 %" in shown
    assert "published to memory as an-id" in shown


def test_wait_stops_at_the_timeout(cli: Cli, ticket: int) -> None:
    result = cli.run("status", ticket, "--wait", "--timeout", "0.1")

    assert result.exit_code == 4
    assert f"publisher status {ticket} --wait" in result.stderr


def test_ctrl_c_stops_waiting_but_not_the_ticket(cli: Cli, ticket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("publisher.cli.tickets_command.time.sleep", interrupted)
    result = cli.run("status", ticket, "--wait")

    assert result.exit_code == 130
    assert f"ticket {ticket} continues" in result.stderr
    assert f"publisher cancel {ticket}" in result.stderr
    assert cli.json("status", ticket)["state"] == "queued"


def test_publish_wait_stops_at_the_timeout(cli: Cli) -> None:
    result = cli.run(
        *("publish", cli.image_file(), *MEMORY, "--wait", "--timeout", "0.1", "--json"), OS_PASSWORD=PASSWORD
    )

    assert result.exit_code == 4
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["state"] == "queued"


def test_ticket_is_cancelled_only_once(cli: Cli, ticket: int) -> None:
    assert cli.json("cancel", ticket)["state"] == "cancelled"

    again = cli.run("cancel", ticket)
    assert again.exit_code == 2
    assert "has ended already" in again.stderr


def test_cancellation_of_a_claimed_ticket_is_left_to_its_worker(cli: Cli, cli_store: Store, ticket: int) -> None:
    claimed(cli_store, ticket)

    assert "is being cancelled" in cli.ok("cancel", ticket)


def test_unknown_ticket_is_refused(cli: Cli) -> None:
    for command in ("status", "cancel"):
        result = cli.run(command, 12)
        assert result.exit_code == 2
        assert "there is no ticket 12" in result.stderr


# Preflights -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker_finds(cli_store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[CheckResult], None]:
    """Return a function that lets each check have a result, in place of a worker's."""

    def let(result: CheckResult) -> None:
        def answer(self: WakeQueue, *check_ids: int) -> None:
            for each in check_ids:
                claimed = cli_store.checks.claim(each)
                assert claimed is not None
                cli_store.checks.finish(claimed, result)

        monkeypatch.setattr(WakeQueue, "send_check", answer)

    return let


@pytest.mark.long
def test_image_is_published_if_the_cloud_would_accept_it(
    cli: Cli, cli_store: Store, worker_finds: Callable[[CheckResult], None]
) -> None:
    worker_finds(CheckResult(True, "the cloud would accept the image"))
    made = cli.json("publish", cli.image_file(), *MEMORY, "--preflight", OS_PASSWORD=PASSWORD)
    assert made["state"] == "queued"


@pytest.mark.long
def test_image_that_the_cloud_would_refuse_has_no_ticket_and_is_not_registered(
    cli: Cli, cli_store: Store, worker_finds: Callable[[CheckResult], None]
) -> None:
    worker_finds(CheckResult(False, "displayName: is taken", "displayName", Reason.REQUEST))
    refused = cli.run("publish", cli.image_file(), *MEMORY, "--preflight", OS_PASSWORD=PASSWORD)
    assert refused.exit_code == 2, "as for every request that is invalid"
    assert "displayName: is taken; no ticket was created; it is given by --name" in " ".join(refused.stderr.split())
    assert list(cli_store.tickets.list()) == []
    assert list(cli_store.images.list()) == []


@pytest.mark.long
def test_preflight_without_a_broker_says_so_and_leaves_nothing(cli: Cli, cli_store: Store) -> None:
    cli.ok("images", "add", cli.image_file(), "--id", 7)
    refused = cli.run("publish", "7", *MEMORY, "--preflight", OS_PASSWORD=PASSWORD)
    assert refused.exit_code == 1
    assert "no worker can be asked to check it" in refused.stderr
    assert list(cli_store.tickets.list()) == []
    assert cli_store.checks.claim(1) is None


@pytest.mark.long
def test_preflight_that_no_worker_answers_ends(cli: Cli, cli_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflights, "CHECK_SECONDS_MAX", 0.2)
    monkeypatch.setattr(WakeQueue, "send_check", lambda self, *ids: None)
    refused = cli.run("publish", cli.image_file(), *MEMORY, "--preflight", OS_PASSWORD=PASSWORD)
    assert refused.exit_code == 1
    assert "no worker has answered" in refused.stderr
    assert cli_store.checks.claim(1) is None
    assert list(cli_store.images.list()) == []
