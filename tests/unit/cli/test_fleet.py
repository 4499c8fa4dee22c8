from __future__ import annotations

import re

from publisher.store import Store
from publisher.store.fleet import Member
from tests.command import Cli

ONE = Member("here-1", "here", 1, "publisher@here", "0.1.0", 4)
OTHER = Member("there-2", "there", 2, "publisher@there", "0.1.0", 2)


def test_workers_are_listed(cli: Cli, cli_store: Store) -> None:
    assert cli.json("fleet", "list") == {"workers": []}
    cli_store.fleet.join(ONE)
    cli_store.fleet.join(OTHER)
    cli_store.fleet.stopped(OTHER.name)
    found = {each["name"]: each for each in cli.json("fleet", "list")["workers"]}
    one = found["here-1"]
    assert (one["state"], one["pid"], one["node"], one["ticket_ids"]) == ("alive", 1, "publisher@here", [])
    assert (one["stopped"], found["there-2"]["state"]) == (None, "stopped")
    assert re.search(r"here-1\talive\t\d+ s ago\t0 of 4\t\t0\.1\.0\n", cli.ok("fleet", "list"))


def test_worker_is_asked_to_drain(cli: Cli, cli_store: Store) -> None:
    cli_store.fleet.join(ONE)
    assert "Asked here-1 to drain" in cli.ok("fleet", "drain", "here-1")
    assert cli_store.fleet.beat(ONE)
    assert cli.json("fleet", "list")["workers"][0]["state"] == "draining"
    refused = cli.run("fleet", "drain", "nobody")
    assert (refused.exit_code, "there is no worker 'nobody'" in refused.stderr) == (2, True)
