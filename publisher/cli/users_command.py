"""`publisher users`, `roles` and `audit`: who may do what, and who did what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli.command import (
    Json,
    Yes,
    ask_password,
    complete_users,
    confirm,
    examples,
    generate_password,
    iso,
    open_installation,
    open_store,
    out,
    password_from_file,
    password_from_stdin,
    print_json,
    print_table,
    read_settings,
    say,
    say_warning,
    whole_number,
    write_password,
)
from publisher.core.errors import InvalidRequest, NotFound
from publisher.services import first_user

if TYPE_CHECKING:
    from publisher.store import AuditEntry

commands = typer.Typer()
app = typer.Typer(help="Manage users, their roles and webhooks.", no_args_is_help=True)
commands.add_typer(app, name="users")

Login = Annotated[str, typer.Argument(help="Login of the user.", autocompletion=complete_users)]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="Read the password from the first line of this file.")
]
Generate = Annotated[bool, typer.Option("--generate", help="Generate a password and show it. Requires a terminal.")]
GenerateTo = Annotated[
    Path | None,
    typer.Option("--generate-to", metavar="FILE", help="Generate a password and write it to this new file, mode 0600."),
]


@app.command(
    epilog=examples(
        "users add anna --admin --generate",
        "users add robot --role publishers --generate-to robot.password",
        "users add ben --entitlement image_publish --password-stdin < password",
    )
)
def add(
    login: Annotated[str, typer.Argument(help="Login of the new user.")],
    admin: Annotated[
        bool, typer.Option("--admin", help="Make the user an administrator, who may do everything.")
    ] = False,
    entitlement: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Entitlement to grant to the user. Can be repeated."),
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Role to grant to the user. Can be repeated.")
    ] = None,
    password_stdin: PasswordStdin = False,
    password_file: PasswordFile = None,
    generate: Generate = False,
    generate_to: GenerateTo = None,
) -> None:
    """Add a user with only the rights that you grant.

    The command prompts for the password, unless an option says where it comes from.
    """
    source = _PasswordSource(password_stdin, password_file, generate, generate_to)
    with open_store(read_settings()) as store, source.password() as password:
        user = store.users.add(
            login,
            password,
            administrator=admin,
            entitlements=frozenset(entitlement or ()),
            roles=frozenset(role or ()),
        )
    say(f"Added the {'administrator' if user.administrator else 'user'} '{user.login}'")
    source.show(password)
    if not (admin or entitlement or role):
        say_warning(f"'{login}' has no rights yet; grant some with a role: publisher users roles {login} --add ROLE")


@app.command(epilog=examples("users passwd anna", "users passwd anna --generate-to anna.password"))
def passwd(
    login: Login,
    password_stdin: PasswordStdin = False,
    password_file: PasswordFile = None,
    generate: Generate = False,
    generate_to: GenerateTo = None,
) -> None:
    """Change a user's password and end all of the user's sessions."""
    settings = read_settings()
    source = _PasswordSource(password_stdin, password_file, generate, generate_to)
    with open_store(settings) as store, source.password() as password:
        store.users.set_password(login, password)
    first_user.forget_password(settings, login)
    say(f"'{login}' has a new password")
    source.show(password)


@app.command("list", epilog=examples("users list", "users list --json"))
def list_(
    as_json: Json = False,
) -> None:
    """List users."""
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
    add: Annotated[list[str] | None, typer.Option(help="Role to grant. Can be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Role to revoke. Can be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Grant roles to a user or revoke them, then list the user's roles.

    The change applies from the user's next request.
    """
    with open_store(read_settings()) as store:
        user = store.users.change_roles(login, add=frozenset(add or ()), remove=frozenset(remove or ()))
    if as_json:
        print_json({"login": user.login, "roles": [role.name for role in user.roles]})
        return
    print_table(["Role", "Entitlements"], [[role.name, ", ".join(sorted(role.entitlements))] for role in user.roles])


@app.command(epilog=examples("users notify anna https://ci.example.com/hook", "users notify anna --off"))
def notify(
    login: Login,
    url: Annotated[str | None, typer.Argument(help="URL to call when one of the user's tickets ends.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Remove the webhook and its secret.")] = False,
    new_secret: Annotated[
        bool, typer.Option("--new-secret", help="Replace the secret that signs the webhooks with a new one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Set a user's webhook, which is called when one of the user's tickets ends.

    Without a URL or an option, the command shows the webhook.
    The secret that signs the webhooks is shown once, when it is created.
    A secret without a URL is for publish requests that name a URL themselves.
    """
    from publisher.services.webhooks import subscribe

    if off and (url or new_secret):
        raise InvalidRequest("--off cannot be combined with other options")
    secret = None
    with open_installation() as installation:
        store = installation.store
        if off:
            store.users.set_notify(login, None, None)
        elif url or new_secret:
            secret = subscribe(store, installation.vault, installation.policy, login, url, new_secret=new_secret)
        now = store.users.notify(login)
    if as_json:
        shown = {"login": login, "url": now.url, "signed": now.sealed_secret is not None}
        print_json(shown | ({"secret": secret} if secret else {}))
        return
    say(f"Webhook of '{login}': {now.url}" if now.url else f"'{login}' has no webhook")
    if secret and out.is_terminal:
        say(f"Secret: {secret}")
    elif secret:
        say_warning(
            "a secret was created but not shown: the output is not a terminal; create and show another one with:"
            f" publisher users notify {login} --new-secret --json"
        )


@app.command(epilog=examples("users remove anna", "users remove anna --yes"))
def remove(login: Login, yes: Yes = False) -> None:
    """Remove a user and the user's cloud accounts, API keys and appliances.

    You cannot remove a user who owns images, nor the last administrator.
    """
    with open_store(read_settings()) as store:
        if store.users.get(login) is None:
            raise NotFound(f"there is no user '{login}'; see: publisher users list")
        confirm(f"Remove the user '{login}', with its cloud accounts, API keys and appliances?", yes=yes)
        store.users.remove(login)
    say(f"Removed the user '{login}'")


@dataclass(frozen=True, slots=True)
class _PasswordSource:
    """The source of a password, by the options. Without such an option, it is asked for."""

    stdin: bool
    file: Path | None
    generate: bool
    generate_to: Path | None

    @contextmanager
    def password(self) -> Iterator[str]:
        """Provide the password. A file that it is written to is kept only if the block succeeds.

        Raises `InvalidRequest` if the options contradict each other, or a generated password could not be shown.
        """
        if sum((self.stdin, self.file is not None, self.generate, self.generate_to is not None)) > 1:
            raise InvalidRequest("use only one of --password-stdin, --password-file, --generate and --generate-to")
        if self.generate and not out.is_terminal:
            raise InvalidRequest(
                "--generate: passwords are printed only on a terminal; use --generate-to FILE, or --password-stdin"
            )
        if not self.generate_to:
            yield self._given()
            return
        if self.generate_to.exists():
            raise InvalidRequest(f"--generate-to: {self.generate_to} exists; name another file, or remove it first")
        password = generate_password()
        # Write the file first: a password that was never recorded would be useless.
        write_password(self.generate_to, password)
        try:
            yield password
        except BaseException:
            self.generate_to.unlink(missing_ok=True)
            raise

    def show(self, password: str) -> None:
        if self.generate:
            say(f"Password: {password}")
        elif self.generate_to:
            say(f"The password is in {self.generate_to}")

    def _given(self) -> str:
        if self.stdin:
            return password_from_stdin()
        if self.file:
            return password_from_file(self.file)
        if self.generate:
            return generate_password()
        return ask_password("Password", instead="use --password-stdin, --password-file or --generate-to", confirm=True)


# Roles --------------------------------------------------------------------------------------------

roles_app = typer.Typer(help="Manage roles: named sets of entitlements to grant to users.", no_args_is_help=True)
commands.add_typer(roles_app, name="roles")


@roles_app.command("add", epilog=examples("roles add publishers --entitlement image_publish"))
def add_role(
    name: Annotated[str, typer.Argument(help="Name of the new role.")],
    entitlement: Annotated[list[str], typer.Option(help="Entitlement that the role grants. Can be repeated.")],
    description: Annotated[str, typer.Option(help="Description of the role.")] = "",
) -> None:
    """Add a role."""
    with open_store(read_settings()) as store:
        role = store.roles.add(name, entitlements=frozenset(entitlement), description=description)
    say(f"Added the role '{role.name}'")


@roles_app.command("list", epilog=examples("roles list", "roles list --json"))
def list_roles(as_json: Json = False) -> None:
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


@roles_app.command("remove", epilog=examples("roles remove publishers"))
def remove_role(name: Annotated[str, typer.Argument(help="Name of the role.")], yes: Yes = False) -> None:
    """Remove a role that no user has."""
    with open_store(read_settings()) as store:
        if name not in {role.name for role in store.roles.list()}:
            raise NotFound(f"there is no role '{name}'; see: publisher roles list")
        confirm(f"Remove the role '{name}'?", yes=yes)
        store.roles.remove(name)
    say(f"Removed the role '{name}'")


# Audit log ----------------------------------------------------------------------------------------

audit_app = typer.Typer(help="Show the audit log.", no_args_is_help=True)
commands.add_typer(audit_app, name="audit")


@audit_app.command(
    "list", epilog=examples("audit list --user anna", "audit list --object users/root/accounts/1 --json")
)
def list_audit(
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
    with open_store(read_settings()) as store:
        entries = store.audit.latest(count, before=before, actor=user, object=object)
    if as_json:
        print_json({"entries": [_entry_json(each) for each in entries]})
        return
    columns = ["Number", "Time", "User", "Door", "Address", "Action", "Object", "Detail"]
    print_table(columns, [[_printable(cell) for cell in _cells(each)] for each in entries])


def _cells(entry: AuditEntry) -> list[str]:
    actor = entry.actor
    who = [actor.login, actor.door, actor.address or ""]
    return [str(entry.id), iso(entry.at) or "", *who, entry.action, entry.object, entry.detail]


def _entry_json(entry: AuditEntry) -> dict[str, Any]:
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
