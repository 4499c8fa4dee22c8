"""`publisher fleet`: show and drain the workers that the store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli.command import Json, examples, iso, open_store, print_json, print_table, say
from publisher.core.settings import Settings

if TYPE_CHECKING:
    from publisher.store.fleet import WorkerStanding

commands = typer.Typer()
app = typer.Typer(help="Show and drain workers.", no_args_is_help=True)
commands.add_typer(app, name="fleet")


@app.command("list", epilog=examples("fleet list", "fleet list --json"))
def list_(as_json: Json = False) -> None:
    """List the workers that ran within the last 24 hours, latest heartbeat first."""
    settings = Settings.from_environment()
    with open_store(settings) as store:
        found = store.fleet.workers()
    if as_json:
        print_json({"workers": [_json(each, settings.silent_seconds) for each in found]})
        return
    rows = [
        [
            each.member.name,
            each.state(settings.silent_seconds),
            f"{each.silent_seconds:.0f} s ago",
            f"{len(each.ticket_ids)} of {each.member.concurrency}",
            ", ".join(str(id) for id in each.ticket_ids),
            each.member.version,
        ]
        for each in found
    ]
    print_table(["Name", "State", "Heard of", "Busy", "Tickets", "Version"], rows)


@app.command(epilog=examples("fleet drain worker-1.example.com-4711"))
def drain(name: Annotated[str, typer.Argument(help="Name of the worker, as shown by publisher fleet list.")]) -> None:
    """Drain a worker: finish current uploads, then exit.

    Tickets that have not ended after PUBLISHER_DRAIN_SECONDS go back to the queue.
    A service manager may start a new worker in its place.
    """
    settings = Settings.from_environment()
    with open_store(settings) as store:
        store.fleet.ask_to_drain(name)
    say(f"Asked {name} to drain; it starts within {settings.heartbeat_seconds:g} s")


def _json(worker: WorkerStanding, silent_seconds: float) -> dict[str, Any]:
    return {
        "name": worker.member.name,
        "state": worker.state(silent_seconds).value,
        "host": worker.member.host,
        "pid": worker.member.pid,
        "node": worker.member.node,
        "version": worker.member.version,
        "concurrency": worker.member.concurrency,
        "started": iso(worker.started),
        "silent_seconds": worker.silent_seconds,
        "stopped": iso(worker.stopped),
        "ticket_ids": list(worker.ticket_ids),
    }
