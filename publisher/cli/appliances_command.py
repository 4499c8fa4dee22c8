"""`publisher appliances`: manage appliances, which group images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli.command import (
    Json,
    Yes,
    complete_users,
    confirm,
    examples,
    iso,
    mebibytes,
    open_store,
    print_json,
    print_table,
    read_settings,
    say,
    whole_number,
)
from publisher.core.errors import NotFound

if TYPE_CHECKING:
    from publisher.store.appliances import Appliance

commands = typer.Typer()
app = typer.Typer(help="Manage appliances, which group images.", no_args_is_help=True)
commands.add_typer(app, name="appliances")

User = Annotated[str, typer.Option(help="User who owns the appliance.", autocompletion=complete_users)]
Id = Annotated[int, typer.Argument(parser=whole_number(), help="Number of the appliance.")]


@app.command(epilog=examples("appliances add --name web", 'appliances add 4 --user anna --distribution "Debian 12"'))
def add(
    id: Annotated[
        int | None,
        typer.Argument(
            parser=whole_number(),
            help="Number of the appliance (default: the user's next free number).",
        ),
    ] = None,
    user: User = "root",
    name: Annotated[str | None, typer.Option(help="Name of the appliance (default: appliance-NUMBER).")] = None,
    version: Annotated[str, typer.Option(help="Version of the appliance.")] = "1",
    distribution: Annotated[str, typer.Option(help="Operating system, such as 'Debian 12'.")] = "unknown",
    architecture: Annotated[str, typer.Option(help="Processor architecture.")] = "x86_64",
    description: Annotated[str, typer.Option(help="Description of the appliance.")] = "",
    as_json: Json = False,
) -> None:
    """Add an appliance.

    This is optional: the first image of an appliance creates it, without a description.
    """
    with open_store(read_settings()) as store:
        appliance = store.appliances.add(
            user,
            id=id,
            name=name,
            version=version,
            description=description,
            distribution=distribution,
            architecture=architecture,
        )
    if as_json:
        print_json(_json(appliance, 0))
    else:
        say(f"Added the appliance '{appliance.name}' of {appliance.owner}, number {appliance.id}")


@app.command("list", epilog=examples("appliances list --user anna"))
def list_(
    user: Annotated[
        str | None, typer.Option(help="Show only appliances of this user.", autocompletion=complete_users)
    ] = None,
    as_json: Json = False,
) -> None:
    """List appliances and the total size of their images."""
    with open_store(read_settings()) as store:
        found = store.appliances.list(user)
        contents = {owner: store.appliances.contents(owner) for owner in {each.owner for each in found}}
    sized = [(each, contents[each.owner][each.id].size if each.id in contents[each.owner] else 0) for each in found]
    if as_json:
        print_json({"appliances": [_json(appliance, size) for appliance, size in sized]})
        return
    rows = [
        [str(each.id), each.owner, each.name, each.version, each.distribution, each.architecture, mebibytes(size)]
        for each, size in sized
    ]
    print_table(["Id", "User", "Name", "Version", "Distribution", "Architecture", "Images"], rows)


@app.command(epilog=examples("appliances remove 4 --user anna"))
def remove(id: Id, user: User = "root", yes: Yes = False) -> None:
    """Remove an appliance that has no images and no tickets."""
    with open_store(read_settings()) as store:
        if store.appliances.find(user, id) is None:
            raise NotFound(f"{user} has no appliance {id}; see: publisher appliances list")
        confirm(f"Remove the appliance {id} of {user}?", yes=yes)
        store.appliances.remove(user, id)
    say(f"Removed the appliance {id} of {user}")


def _json(appliance: Appliance, size: int) -> dict[str, Any]:
    from publisher.core.uris import appliance_uri

    return {
        "id": appliance.id,
        "uri": appliance_uri(appliance.owner, appliance.id),
        "owner": appliance.owner,
        "name": appliance.name,
        "version": appliance.version,
        "description": appliance.description,
        "distribution": appliance.distribution,
        "architecture": appliance.architecture,
        "images_bytes": size,
        "created": iso(appliance.created),
    }
