from __future__ import annotations

import pytest

from publisher.store import Store
from tests.command import Cli
from tests.records import add_ticket


@pytest.fixture
def sixty(cli_store: Store) -> list[int]:
    """Sixty tickets: the last one is cancelled, the first one is for another platform."""
    ids = [add_ticket(cli_store, platform="openstack" if not number else "memory").id for number in range(60)]
    cli_store.tickets.request_cancel(ids[-1])
    return ids


def listed(cli: Cli, *options: str | int) -> list[int]:
    return [each["id"] for each in cli.json("tickets", "list", *options)["tickets"]]


@pytest.mark.long
def test_tickets_are_listed_newest_first_in_pages(cli: Cli, sixty: list[int]) -> None:
    result = cli.run("tickets", "list")

    assert [int(line.split("\t")[0]) for line in result.stdout.splitlines()] == sixty[:-51:-1]
    assert f"--before {sixty[10]}" in result.stderr
    assert cli.json("tickets", "list")["more"]
    assert listed(cli, "--before", sixty[10]) == sixty[9::-1]
    assert listed(cli, "--count", 0) == sixty[::-1]
    assert not cli.json("tickets", "list", "--count", 60)["more"]


@pytest.mark.long
def test_tickets_are_filtered(cli: Cli, sixty: list[int]) -> None:
    assert listed(cli, "--state", "cancelled") == [sixty[-1]]
    assert listed(cli, "--platform", "openstack") == [sixty[0]]
    assert listed(cli, "--user", "anna") == []
    assert listed(cli, "--user", "root", "--count", 1) == [sixty[-1]]


def test_unknown_state_is_refused(cli: Cli) -> None:
    result = cli.run("tickets", "list", "--state", "lost")

    assert result.exit_code == 2
    assert "queued" in result.stderr
