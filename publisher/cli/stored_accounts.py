"""`publisher accounts show`, `set` and `test`: one stored cloud account."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli import openrc, programs
from publisher.cli.ca_bundle import read_bundle
from publisher.cli.command import (
    Json,
    ask_password,
    complete_users,
    examples,
    iso,
    open_store,
    password_from_stdin,
    print_json,
    read_settings,
    say,
    snake_case,
)
from publisher.core.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from publisher.store import Store
    from publisher.store.accounts import StoredAccount

SHOW_EXAMPLES = examples("accounts show production", "accounts show production --user anna --json")
SET_EXAMPLES = examples(
    "accounts set production --new-password",
    "accounts set production --password-stdin < password",
    "accounts set production --rename staging",
    'accounts set production --keystone-version ""',
)
TEST_EXAMPLES = examples(
    "accounts test production --project demo --domain Default",
    "accounts test production --project demo --json",
)

Name = Annotated[str, typer.Argument(help="Name of the account.")]
User = Annotated[str, typer.Option(help="User who owns the account.", autocompletion=complete_users)]


def show(name: Name, user: User = "root", as_json: Json = False) -> None:
    """Show an account, without its secrets."""
    with open_store(read_settings()) as store:
        account = find_account(store, user, name)
    if as_json:
        print_json(account_json(account))
        return
    lines = {"Account": f"{account.name}, number {account.id}", "User": account.owner, "Platform": account.platform}
    lines |= {element: str(value) for element, value in account.fields.items() if value}
    lines |= {"Created": iso(account.created) or "", "Modified": iso(account.modified) or ""}
    width = max(len(label) for label in lines)
    for label, value in lines.items():
        # A CA bundle has many lines: show only its first.
        first, *more = value.splitlines()
        say(f"{label:<{width}}  {first}{' …' if more else ''}")


def change(
    name: Name,
    user: User = "root",
    rename: Annotated[str | None, typer.Option(metavar="NAME", help="New name of the account.")] = None,
    keystone_url: Annotated[str | None, typer.Option(metavar="URL", help="Keystone's URL.")] = None,
    glance_url: Annotated[str | None, typer.Option(metavar="URL", help="Glance's URL.")] = None,
    login: Annotated[str | None, typer.Option(help="Login name in the cloud.")] = None,
    user_domain: Annotated[str | None, typer.Option(help="Name or id of the user's Keystone v3 domain.")] = None,
    interface: Annotated[
        str | None,
        typer.Option(metavar="public|internal|admin", help="Interface of the Glance endpoint in Keystone's catalog."),
    ] = None,
    keystone_version: Annotated[
        str | None, typer.Option(metavar="v3|v2.0", help="Version of the Keystone API.")
    ] = None,
    ca_bundle: Annotated[
        Path | None, typer.Option(help="PEM file of the CA certificates to trust for this cloud.")
    ] = None,
    new_password: Annotated[bool, typer.Option("--new-password", help="Prompt for a new password.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the new password from the first line of standard input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Change an account. Omitted options keep their values; an empty value ("") removes one.

    The command ignores the OS_… variables.
    If a URL or the login changes, it needs the password again.
    Tickets that have not ended keep the old values; publisher tickets retry uses the new ones.
    """
    from publisher.core.vault import Vault
    from publisher.outbound.policy import OutboundPolicy
    from publisher.services import accounts

    given = {"keystoneUrl": keystone_url, "glanceUrl": glance_url, "login": login, "userDomain": user_domain}
    given["interface"] = openrc.interface(interface) if interface else interface
    given["keystoneVersion"] = openrc.version(keystone_version) if keystone_version else keystone_version
    fields: dict[str, Any] = {element: value or None for element, value in given.items() if value is not None}
    fields |= read_bundle(ca_bundle) if ca_bundle else {}
    if not (fields or rename or new_password or password_stdin):
        raise InvalidRequest("nothing to change; name what is to change, see: publisher accounts set --help")
    settings = read_settings()
    with open_store(settings) as store:
        present = find_account(store, user, name)
        secrets = _new_secrets(new_password, password_stdin, login or str(present.fields.get("login") or ""))
        vault = Vault.from_file(settings.key_file, production=settings.production)
        change_it = partial(
            accounts.change, store, vault, present, name=rename, fields=fields, policy=OutboundPolicy.of(settings)
        )
        try:
            changed = change_it(secrets=secrets)
        except accounts.SecretNeeded:
            instead = "as the address or the login changes, the password is needed again: use --password-stdin"
            asked = ask_password("Password for the new address or login", instead=instead)
            changed = change_it(secrets={"password": asked})
    if as_json:
        print_json(account_json(changed))
    else:
        say(f"Changed the account '{changed.name}' of {changed.owner}")


def try_out(
    name: Name,
    user: User = "root",
    project: Annotated[str | None, typer.Option(help="Name or id of the Keystone v3 project.")] = None,
    domain: Annotated[str | None, typer.Option(help="Name or id of the project's Keystone v3 domain.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Name of the Keystone v2.0 tenant.")] = None,
    region: Annotated[str | None, typer.Option(help="Region to publish to.")] = None,
    as_json: Json = False,
) -> None:
    """Sign in to the cloud with an account and show what works. Nothing is uploaded.

    The command ignores the OS_… variables. The exit code is 1 if a step fails.
    """
    given = {"keystoneProject": project, "keystoneDomain": domain, "tenantName": tenant, "publishLocation": region}
    target = {element: value for element, value in given.items() if value}
    settings = read_settings()
    with open_store(settings) as store:
        find_account(store, user, name)
    command = programs.sign_in(user=user, account=name, target=target, as_json=as_json)
    programs.become(command, programs.configured(settings))


def find_account(store: Store, user: str, name: str) -> StoredAccount:
    """Return a user's account by its name. Raises `NotFound`."""
    found = store.accounts.find(user, name=name)
    if found is None:
        raise NotFound(f"{user} has no account '{name}'; see: publisher accounts list")
    return found


def account_json(account: StoredAccount) -> dict[str, Any]:
    return {
        "id": account.id,
        "user": account.owner,
        "name": account.name,
        "platform": account.platform,
        "fields": {snake_case(name): value for name, value in account.fields.items()},
        "created": iso(account.created),
        "modified": iso(account.modified),
    }


def _new_secrets(ask: bool, stdin: bool, login: str) -> dict[str, str]:
    if ask and stdin:
        raise InvalidRequest("use either --new-password or --password-stdin")
    if stdin:
        return {"password": password_from_stdin()}
    if ask:
        return {"password": ask_password(f"New password of {login}", instead="use --password-stdin")}
    return {}
