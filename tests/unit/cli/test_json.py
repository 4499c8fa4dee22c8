"""All commands print JSON with snake_case keys."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from publisher.store import Store
from publisher.store.fleet import Member
from tests.command import Cli
from tests.records import add_ticket
from tests.unit.cli.test_help import READS

SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
FIXED = {"devcloud env"}
"""Commands whose keys are names of environment variables."""


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from keys(each)
    elif isinstance(value, list):
        for each in value:
            yield from keys(each)


@pytest.fixture
def full(cli: Cli, cli_store: Store) -> Cli:
    """An installation with one of each thing that a command lists."""
    account = ["--keystone-url", "https://cloud.example.com:5000", "--login", "demo"]
    cli.ok("accounts", "add", "lab", *account, "--glance-url", "https://images.example.com", OS_PASSWORD="x")
    cli.ok("roles", "add", "publishers", "--entitlement", "image_publish")
    cli.ok("appliances", "add", "4")
    ticket = add_ticket(cli_store)
    cli_store.fleet.join(Member("here-1", "here", 1, "publisher@here", "0.1.0", 4))
    claim = cli_store.leases.claim(ticket.id, "here-1", 60)
    assert claim
    cli_store.leases.plan(claim, "an-object-in-the-cloud")
    return cli


@pytest.mark.long
def test_keys_are_in_snake_case(full: Cli) -> None:
    wrong: dict[str, str] = {}
    for name in sorted(READS - FIXED):
        arguments = [*name.split(), *(["1"] if name in {"status", "logs"} else [])]
        options = ["--history"] if name == "status" else []
        printed = json.loads(full.run(*arguments, *options, "--json").stdout)
        wrong |= {f"{name}: {key}": name for key in keys(printed) if not SNAKE_CASE.fullmatch(key)}
    assert wrong == {}


@pytest.mark.long
def test_sweep_output_has_snake_case_keys(cli: Cli, cli_store: Store) -> None:
    """The sweep of the ticket's account fails because its secrets cannot be opened."""
    claim = cli_store.leases.claim(add_ticket(cli_store).id, "here-1", 60)
    assert claim
    cli_store.leases.plan(claim, "an-object-in-the-cloud")
    command = [sys.executable, "-m", "publisher.cli.main", "sweep", "--dry-run", "--json"]
    swept = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    printed = json.loads(swept.stdout)
    assert printed.keys() == {"dry_run", "findings"}
    (finding,) = printed["findings"]
    assert finding.keys() == {"outcome", "platform", "account", "cloud_id", "ticket_uid", "age_seconds", "error"}
    assert finding["outcome"] == "failed"
