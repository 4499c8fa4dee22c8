from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy import insert, update

from publisher.cli import logs_command
from publisher.core.errors import Reason
from publisher.core.ticket import Phase
from publisher.store import Store
from publisher.store.database import db_now, samples, tickets, writing
from publisher.store.leases import Claim
from tests.command import Cli
from tests.records import add_ticket


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_command, "_POLL_SECONDS", 0.02)


@pytest.fixture
def claim(cli_store: Store) -> Claim:
    """The claim of a ticket whose first attempt failed and whose second attempt is uploading."""
    ticket = add_ticket(cli_store).id
    first = cli_store.leases.claim(ticket, "first", 60)
    assert first
    cli_store.leases.plan(first, "one-id")
    with writing(cli_store.engine) as connection:
        for at, sent in ((db_now(), 0), (db_now() + 1, 400)):
            row = {"ticket_id": ticket, "attempt": 1, "at": at, "sent": sent}
            connection.execute(insert(samples).values(row))
        connection.execute(update(tickets).where(tickets.c.id == ticket).values(request_id="r-7"))
    cli_store.leases.retry(first, delay_seconds=0, error="the connection was lost", reason=Reason.CONNECTION)
    second = cli_store.leases.claim(ticket, "second", 60)
    assert second
    cli_store.leases.mark(second, "one-id", "gone")
    cli_store.leases.phase(second, Phase.UPLOADING, "Uploading")
    return second


def test_logs_lists_all_events_in_order(cli: Cli, claim: Claim) -> None:
    shown = cli.ok("logs", claim.ticket.id)

    assert "Reason    connection\n" in shown
    assert "Request   r-7\n" in shown
    events = [line.split("  ", 1) for line in shown.splitlines() if line.startswith("20")]
    assert [at for at, _ in events] == sorted(at for at, _ in events)
    words = "\n".join(words for _, words in events)
    for told in ("Accepted", "Claimed by first", "the connection was lost", "Claimed by second", "one-id is gone"):
        assert words.count(told) == 1, told
    assert "attempt 1: 0.0 MiB sent" in words


def test_logs_prints_json(cli: Cli, claim: Claim) -> None:
    answer = cli.json("logs", claim.ticket.id)

    assert (answer["ticket"]["id"], answer["request_id"], answer["reason"]) == (claim.ticket.id, "r-7", "connection")
    assert [(each["cloud_id"], each["state"]) for each in answer["cloud_objects"]] == [("one-id", "gone")]
    assert [(each["attempt"], each["sent_bytes"]) for each in answer["uploads"]] == [(1, 400)]
    assert {each["kind"] for each in answer["events"]} == {"ticket", "cloud", "upload"}


@pytest.fixture
def follow(cli: Cli, cli_store: Store, claim: Claim, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that follows the ticket until it has failed and returns what is printed."""
    steps: Iterator[Callable[[], object]] = iter(
        [
            *(partial(cli_store.leases.renew, claim, 60, sent=sent) for sent in (100, 105, 900)),
            partial(cli_store.leases.failed, claim, error="the cloud is full"),
        ]
    )
    # The worker goes one step further between two polls.
    monkeypatch.setattr("publisher.cli.logs_command.time.sleep", lambda _: next(steps)())

    def follow_with(*options: str) -> str:
        result = cli.run("logs", claim.ticket.id, "--follow", *options)
        assert result.exit_code == 1
        assert result.stdout.count("the cloud is full") == 1
        # 10 and 10.5 percent count as one step.
        assert result.stdout.count("10 %, ") == 1
        return result.stdout

    return follow_with


def test_follow_prints_events_until_the_ticket_ends(follow: Callable[..., str]) -> None:
    assert follow().count("Accepted\n") == 1


def test_follow_prints_one_json_document_per_line(follow: Callable[..., str]) -> None:
    printed = follow("--json")
    assert printed.count('"queued: Accepted"') == 1
    assert all(set(json.loads(line)) == {"at", "kind", "words"} for line in printed.splitlines())


@pytest.mark.usefixtures("claim")
def test_follow_stops_at_the_timeout(cli: Cli) -> None:
    result = cli.run("logs", 1, "--follow", "--timeout", "0.1")

    assert result.exit_code == 4
    assert "it continues" in result.stderr


@pytest.mark.usefixtures("claim")
def test_ctrl_c_stops_following_but_not_the_ticket(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("publisher.cli.logs_command.time.sleep", interrupted)
    result = cli.run("logs", 1, "--follow")

    assert result.exit_code == 130
    assert "publisher cancel 1" in result.stderr


def test_unknown_ticket_is_refused(cli: Cli) -> None:
    result = cli.run("logs", 12)

    assert result.exit_code == 2
    assert "there is no ticket 12" in result.stderr
