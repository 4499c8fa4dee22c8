"""`publisher users`: who may use the intake."""

from __future__ import annotations

from typing import Annotated

import typer

from publisher.cli import passwords
from publisher.cli.installation import open_store
from publisher.cli.output import Json, print_json, print_table, say
from publisher.core.errors import InvalidRequest
from publisher.core.settings import Settings

app = typer.Typer(help="Who may use the intake.", no_args_is_help=True)

FIRST_LOGIN = "root"
FIRST_PASSWORD_FILE = "root.password"  # noqa: S105  # a file's name

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of the standard input.")
]
Generate = Annotated[bool, typer.Option("--generate", help="Make a random password up, and print it.")]


@app.command()
def add(
    login: str,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator may do everything.")] = False,
    entitlement: Annotated[
        list[str] | None, typer.Option(help="What the user may do; give it again for another. All, if none is given.")
    ] = None,
    password_stdin: PasswordStdin = False,
    generate: Generate = False,
) -> None:
    """Add a user. The password is asked for, unless an option says where it comes from."""
    from publisher.core.store.users import ENTITLEMENTS

    with open_store(Settings.from_environment()) as store:
        password = _password(password_stdin, generate)
        entitlements = frozenset(entitlement or ENTITLEMENTS)
        user = store.users.add(login, password, administrator=admin, entitlements=entitlements)
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
    if login == FIRST_LOGIN:
        # What the first start wrote down is not true any more.
        (settings.data_dir / FIRST_PASSWORD_FILE).unlink(missing_ok=True)
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
        [user.login, "administrator" if user.administrator else "user", ", ".join(sorted(user.entitlements))]
        for user in users
    ]
    print_table(["Login", "Role", "Entitlements"], rows)


def _password(stdin: bool, generate: bool) -> str:
    if stdin and generate:
        raise InvalidRequest("use either --password-stdin or --generate")
    if stdin:
        return passwords.from_stdin()
    if generate:
        return passwords.generate()
    return passwords.ask("Password", instead="use --password-stdin or --generate", confirm=True)
