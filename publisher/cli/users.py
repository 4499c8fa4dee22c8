"""`publisher users`: who may use the intake."""

from __future__ import annotations

from typing import Annotated

import typer

from publisher.cli import passwords
from publisher.cli.installation import open_store
from publisher.cli.output import Json, print_json, print_table, say
from publisher.core import first_user
from publisher.core.errors import InvalidRequest
from publisher.core.settings import Settings

app = typer.Typer(help="Who may use the intake.", no_args_is_help=True)

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of the standard input.")
]
Generate = Annotated[bool, typer.Option("--generate", help="Make a random password up, and print it.")]


@app.command()
def add(
    login: str,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator may do everything.")] = False,
    entitlement: Annotated[
        list[str] | None,
        typer.Option(help="What the user may do; give it again for another. All, if neither this nor a role is given."),
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="A role of the user's; give it again for another.")] = None,
    password_stdin: PasswordStdin = False,
    generate: Generate = False,
) -> None:
    """Add a user. The password is asked for, unless an option says where it comes from."""
    from publisher.core.store.users import ENTITLEMENTS

    with open_store(Settings.from_environment()) as store:
        password = _password(password_stdin, generate)
        # Who is given a role is given what it allows, and not all besides.
        entitlements = frozenset(entitlement or (() if role else ENTITLEMENTS))
        user = store.users.add(
            login, password, administrator=admin, entitlements=entitlements, roles=frozenset(role or ())
        )
    say(f"Added the {'administrator' if user.administrator else 'user'} '{user.login}'")
    if generate:
        say(f"Password: {password}")


@app.command()
def passwd(login: str, password_stdin: PasswordStdin = False, generate: Generate = False) -> None:
    """Give a user another password."""
    settings = Settings.from_environment()
    with open_store(settings) as store:
        password = _password(password_stdin, generate)
        store.users.set_password(login, password)
    first_user.forget_password(settings, login)
    say(f"'{login}' has a new password")
    if generate:
        say(f"Password: {password}")


@app.command("list")
def list_(
    as_json: Json = False,
) -> None:
    """List the users."""
    with open_store(Settings.from_environment()) as store:
        users = store.users.list()
    if as_json:
        print_json(
            {
                "users": [
                    {
                        "login": user.login,
                        "administrator": user.administrator,
                        "entitlements": sorted(user.entitlements),
                    }
                    for user in users
                ]
            }
        )
        return
    rows = [
        [
            user.login,
            "administrator" if user.administrator else "user",
            ", ".join(sorted(user.entitlements)),
            ", ".join(role.name for role in user.roles),
        ]
        for user in users
    ]
    print_table(["Login", "Kind", "Entitlements", "Roles"], rows)


@app.command()
def roles(
    login: str,
    add: Annotated[list[str] | None, typer.Option(help="A role to give to the user; again for another.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A role to take from the user; again for another.")] = None,
    as_json: Json = False,
) -> None:
    """Give roles to a user, take others away, and list what it has then. It holds from the next request on."""
    with open_store(Settings.from_environment()) as store:
        user = store.users.change_roles(login, add=frozenset(add or ()), remove=frozenset(remove or ()))
    if as_json:
        print_json({"login": user.login, "roles": [role.name for role in user.roles]})
        return
    print_table(["Role", "Entitlements"], [[role.name, ", ".join(sorted(role.entitlements))] for role in user.roles])


@app.command()
def remove(login: str) -> None:
    """Remove a user, with its cloud accounts, API keys and appliances.

    One that owns images, or the last administrator, stays.
    """
    with open_store(Settings.from_environment()) as store:
        store.users.remove(login)
    say(f"Removed the user '{login}'")


def _password(stdin: bool, generate: bool) -> str:
    if stdin and generate:
        raise InvalidRequest("use either --password-stdin or --generate")
    if stdin:
        return passwords.from_stdin()
    if generate:
        return passwords.generate()
    return passwords.ask("Password", instead="use --password-stdin or --generate", confirm=True)
