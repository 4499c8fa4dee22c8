"""`publisher users`: who may use the intake."""

from __future__ import annotations

from typing import Annotated

import typer

from publisher.cli import passwords
from publisher.cli.completion import users as logins
from publisher.cli.examples import examples
from publisher.cli.installation import open_store, read_settings
from publisher.cli.output import Json, print_json, print_table, say
from publisher.core import first_user
from publisher.core.errors import InvalidRequest

app = typer.Typer(help="Who may use the intake.", no_args_is_help=True)

Login = Annotated[str, typer.Argument(help="The user's login.", autocompletion=logins)]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of the standard input.")
]
Generate = Annotated[bool, typer.Option("--generate", help="Make a random password up, and print it.")]


@app.command(
    epilog=examples("users add anna --generate", "users add robot --role publishers --password-stdin < password")
)
def add(
    login: Annotated[str, typer.Argument(help="The login of the new user.")],
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

    with open_store(read_settings()) as store:
        password = _password(password_stdin, generate)
        # Who is given a role is given what it allows, and not all besides.
        entitlements = frozenset(entitlement or (() if role else ENTITLEMENTS))
        user = store.users.add(
            login, password, administrator=admin, entitlements=entitlements, roles=frozenset(role or ())
        )
    say(f"Added the {'administrator' if user.administrator else 'user'} '{user.login}'")
    if generate:
        say(f"Password: {password}")


@app.command(epilog=examples("users passwd anna"))
def passwd(login: Login, password_stdin: PasswordStdin = False, generate: Generate = False) -> None:
    """Give a user another password."""
    settings = read_settings()
    with open_store(settings) as store:
        password = _password(password_stdin, generate)
        store.users.set_password(login, password)
    first_user.forget_password(settings, login)
    say(f"'{login}' has a new password")
    if generate:
        say(f"Password: {password}")


@app.command("list", epilog=examples("users list", "users list --json"))
def list_(
    as_json: Json = False,
) -> None:
    """List the users."""
    with open_store(read_settings()) as store:
        users = store.users.list()
    if as_json:
        print_json(
            {
                "users": [
                    {
                        "login": user.login,
                        "administrator": user.administrator,
                        "entitlements": sorted(user.entitlements),
                        "roles": [role.name for role in user.roles],
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


@app.command(epilog=examples("users roles anna", "users roles anna --add publishers"))
def roles(
    login: Login,
    add: Annotated[list[str] | None, typer.Option(help="A role to give to the user; again for another.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A role to take from the user; again for another.")] = None,
    as_json: Json = False,
) -> None:
    """Give roles to a user, take others away, and list what it has then. It holds from the next request on."""
    with open_store(read_settings()) as store:
        user = store.users.change_roles(login, add=frozenset(add or ()), remove=frozenset(remove or ()))
    if as_json:
        print_json({"login": user.login, "roles": [role.name for role in user.roles]})
        return
    print_table(["Role", "Entitlements"], [[role.name, ", ".join(sorted(role.entitlements))] for role in user.roles])


@app.command(epilog=examples("users notify anna https://ci.example.com/hook", "users notify anna --off"))
def notify(
    login: Login,
    url: Annotated[str | None, typer.Argument(help="Where the user is told of publications that end.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Tell the user nothing, and forget its secret.")] = False,
    new_secret: Annotated[
        bool, typer.Option("--new-secret", help="Make another secret to sign with, in place of the present one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell a user of its publications by webhook. The secret that they are signed with is shown as it is made.

    With neither a URL nor an option: show where the user is told. A secret alone, without a URL, is for requests that
    name a URL themselves.
    """
    from publisher.core.network import OutboundPolicy
    from publisher.core.notifying import subscribe
    from publisher.core.vault import Vault

    if off and (url or new_secret):
        raise InvalidRequest("--off goes with nothing else")
    settings = read_settings()
    secret = None
    with open_store(settings) as store:
        if off:
            store.users.set_notify(login, None, None)
        elif url or new_secret:
            vault = Vault.from_file(settings.key_file, production=settings.production)
            policy = OutboundPolicy.of(settings)
            secret = subscribe(store, vault, policy, login, url, new_secret=new_secret)
        now = store.users.notify(login)
    if as_json:
        shown = {"login": login, "url": now.url, "signed": now.sealed_secret is not None}
        print_json(shown | ({"secret": secret} if secret else {}))
        return
    say(f"'{login}' is told at {now.url}" if now.url else f"'{login}' is not told of its publications")
    if secret:
        say(f"Secret: {secret}")


@app.command(epilog=examples("users remove anna"))
def remove(login: Login) -> None:
    """Remove a user, with its cloud accounts, API keys and appliances.

    One that owns images, or the last administrator, stays.
    """
    with open_store(read_settings()) as store:
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
