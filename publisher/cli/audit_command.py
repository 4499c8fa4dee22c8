"""`publisher audit`: show the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli.command import Json, examples, iso, open_store, print_json, print_table, whole_number
from publisher.core.settings import Settings

if TYPE_CHECKING:
    from publisher.store.audit import AuditEntry

commands = typer.Typer()
app = typer.Typer(help="Show the audit log.", no_args_is_help=True)
commands.add_typer(app, name="audit")


@app.command("list", epilog=examples("audit list --user anna", "audit list --object users/root/accounts/1 --json"))
def list_(
    user: Annotated[str | None, typer.Option(help="Show only actions of this user.")] = None,
    object: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Show only actions on this object, such as users/root/accounts/1."),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            parser=whole_number(most=1_000_000),
            metavar="NUMBER",
            help="Maximum number of entries to show.",
        ),
    ] = 100,
    before: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(), metavar="NUMBER", help="Show only entries with a smaller number, to continue a list."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List changes made through the API, the console and this command, newest first.

    What workers do to a ticket is in its history: see publisher status --history.
    """
    with open_store(Settings.from_environment()) as store:
        entries = store.audit.latest(count, before=before, actor=user, object=object)
    if as_json:
        print_json({"entries": [_json(each) for each in entries]})
        return
    columns = ["Number", "Time", "User", "Door", "Address", "Action", "Object", "Detail"]
    print_table(columns, [[_printable(cell) for cell in _cells(each)] for each in entries])


def _cells(entry: AuditEntry) -> list[str]:
    actor = entry.actor
    who = [actor.login, actor.door, actor.address or ""]
    return [str(entry.id), iso(entry.at) or "", *who, entry.action, entry.object, entry.detail]


def _json(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": iso(entry.at),
        "user": entry.actor.login,
        "door": entry.actor.door,
        "address": entry.actor.address,
        "request_id": entry.actor.request_id,
        "action": entry.action,
        "object": entry.object,
        "detail": entry.detail,
    }


def _printable(text: str) -> str:
    """Escape control characters: somebody may have tried to sign in with any text as login."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
