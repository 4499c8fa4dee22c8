"""`publisher roles`: manage named sets of entitlements to grant to users."""

from __future__ import annotations

from typing import Annotated

import typer

from publisher.cli.command import Json, Yes, confirm, examples, open_store, print_json, print_table, read_settings, say
from publisher.core.errors import NotFound

commands = typer.Typer()
app = typer.Typer(help="Manage roles: named sets of entitlements to grant to users.", no_args_is_help=True)
commands.add_typer(app, name="roles")


@app.command(epilog=examples("roles add publishers --entitlement image_publish"))
def add(
    name: Annotated[str, typer.Argument(help="Name of the new role.")],
    entitlement: Annotated[list[str], typer.Option(help="Entitlement that the role grants. Can be repeated.")],
    description: Annotated[str, typer.Option(help="Description of the role.")] = "",
) -> None:
    """Add a role."""
    with open_store(read_settings()) as store:
        role = store.roles.add(name, entitlements=frozenset(entitlement), description=description)
    say(f"Added the role '{role.name}'")


@app.command("list", epilog=examples("roles list", "roles list --json"))
def list_(as_json: Json = False) -> None:
    """List roles."""
    with open_store(read_settings()) as store:
        roles = store.roles.list()
    if as_json:
        print_json(
            {
                "roles": [
                    {"name": role.name, "description": role.description, "entitlements": sorted(role.entitlements)}
                    for role in roles
                ]
            }
        )
        return
    rows = [[role.name, ", ".join(sorted(role.entitlements)), role.description] for role in roles]
    print_table(["Name", "Entitlements", "Description"], rows)


@app.command(epilog=examples("roles remove publishers"))
def remove(name: Annotated[str, typer.Argument(help="Name of the role.")], yes: Yes = False) -> None:
    """Remove a role that no user has."""
    with open_store(read_settings()) as store:
        if name not in {role.name for role in store.roles.list()}:
            raise NotFound(f"there is no role '{name}'; see: publisher roles list")
        confirm(f"Remove the role '{name}'?", yes=yes)
        store.roles.remove(name)
    say(f"Removed the role '{name}'")
