"""`publisher accounts`: manage stored cloud accounts, which requests can name instead of sending them whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli import openrc, stored_accounts
from publisher.cli.ca_bundle import CaBundle, read_bundle
from publisher.cli.clouds_yaml import CLOUDS_FILES, FILE_VARIABLE, Cloud, read_cloud
from publisher.cli.command import (
    CLOUD_VARIABLE,
    Json,
    Yes,
    ask_password,
    complete_users,
    confirm,
    err,
    examples,
    open_store,
    password_from_stdin,
    print_json,
    print_table,
    read_settings,
    say,
)
from publisher.cli.openrc import Interface, KeystoneVersion, UserDomain, is_from_command_line
from publisher.cli.stored_accounts import Name, User, account_json, find_account
from publisher.core.errors import InvalidRequest

if TYPE_CHECKING:
    from publisher.platforms.platform import Platform

app = typer.Typer(help="Manage stored cloud accounts.", no_args_is_help=True)


@app.command(
    # Options that this command does not know may be the platform's.
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog=examples("accounts add production --user anna", "accounts add production --from-clouds-yaml mycloud"),
)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new account.")],
    user: User = "root",
    platform: Annotated[str, typer.Option(help="Platform of the account.")] = "openstack",
    keystone_url: Annotated[str | None, typer.Option(envvar="OS_AUTH_URL", help="Keystone's URL.")] = None,
    glance_url: Annotated[str | None, typer.Option(help="Glance's URL (default: from Keystone's catalog).")] = None,
    login: Annotated[str | None, typer.Option(envvar="OS_USERNAME", help="Login name in the cloud.")] = None,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read the password from the first line of standard input. Otherwise it comes from"
            f" clouds.yaml, {CLOUD_VARIABLE} or a prompt. Other platforms: one line for each secret.",
        ),
    ] = False,
    user_domain: UserDomain = None,
    interface: Interface = None,
    keystone_version: KeystoneVersion = None,
    ca_bundle: CaBundle = None,
    from_clouds_yaml: Annotated[
        str | None,
        typer.Option(metavar="CLOUD", help="Take missing values from this cloud in a clouds.yaml file."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help=f"Path of the clouds.yaml file (default: {FILE_VARIABLE}, otherwise the first that exists of"
            f" {', '.join(str(each) for each in CLOUDS_FILES)})."
        ),
    ] = None,
) -> None:
    """Store a cloud account under a name.

    For OpenStack, missing values come from clouds.yaml (--from-clouds-yaml) or the OS_… variables.
    An account contains no project, project domain or region: each publish request names them.

    The plain account elements of other platforms are options, too: --access-key-id for accessKeyId.
    The command prompts for secret elements, unless you use --password-stdin.
    """
    from publisher.cli.platform_options import read_options, read_secrets
    from publisher.core.vault import Vault
    from publisher.outbound.policy import OutboundPolicy
    from publisher.platforms.openstack import OpenStack
    from publisher.platforms.registry import check_installed, platform_of
    from publisher.services import accounts

    if file and not from_clouds_yaml:
        raise InvalidRequest("--file needs --from-clouds-yaml CLOUD")
    check_installed(platform)
    described = platform_of(platform)
    more = read_options(context.args, described)
    settings = read_settings()
    with open_store(settings) as store:
        if isinstance(described, OpenStack):
            cloud = read_cloud(from_clouds_yaml, file) if from_clouds_yaml else None
            account = _openstack_account(context, cloud) | more
            secrets = {"password": _password(password_stdin, cloud, account.get("login"))}
        else:
            # The OS_… variables and the clouds.yaml describe OpenStack's accounts only.
            account = _other_account(context, described) | more
            secrets = read_secrets(described, stdin=password_stdin)
        stored = accounts.create(
            store,
            Vault.from_file(settings.key_file, production=settings.production),
            owner=user,
            name=name,
            platform=platform,
            fields=account,
            secrets=secrets,
            policy=OutboundPolicy.of(settings),
        )
    say(f"Added the account '{stored.name}' of {stored.owner}, number {stored.id}")


@app.command("list", epilog=examples("accounts list", "accounts list --user anna --json"))
def list_(
    user: Annotated[
        str | None, typer.Option(help="Show only accounts of this user.", autocompletion=complete_users)
    ] = None,
    as_json: Json = False,
) -> None:
    """List accounts, without their secrets."""
    with open_store(read_settings()) as store:
        accounts = store.accounts.list(user)
    if as_json:
        print_json({"accounts": [account_json(each) for each in accounts]})
        return
    rows = [
        [
            str(each.id),
            each.owner,
            each.name,
            each.platform,
            str(each.fields.get("login", "")),
            str(each.fields.get("keystoneUrl", "")),
        ]
        for each in accounts
    ]
    print_table(["Id", "User", "Name", "Platform", "Login", "Address"], rows)


@app.command(epilog=examples("accounts remove production --user anna"))
def remove(name: Name, user: User = "root", yes: Yes = False) -> None:
    """Remove an account. Tickets that already use it continue."""
    with open_store(read_settings()) as store:
        found = find_account(store, user, name)
        confirm(f"Remove the account '{name}' of {user}, with its password?", yes=yes)
        store.accounts.remove(user, found.id)
    say(f"Removed the account '{name}' of {user}")


app.command("show", epilog=stored_accounts.SHOW_EXAMPLES)(stored_accounts.show)
app.command("set", epilog=stored_accounts.SET_EXAMPLES)(stored_accounts.change)
app.command("test", epilog=stored_accounts.TEST_EXAMPLES)(stored_accounts.try_out)


def _openstack_account(context: typer.Context, cloud: Cloud | None) -> dict[str, Any]:
    """Return the account that the options, the clouds.yaml or the OS_… variables describe, without its password."""
    options = {"keystone_url": "keystoneUrl", "glance_url": "glanceUrl", "login": "login"}
    options |= {"keystone_version": "keystoneVersion", "user_domain": "userDomain", "interface": "interface"}
    given = {
        element: str(context.params[option])
        for option, element in options.items()
        # If a cloud was named, the variables may be about another one.
        if context.params[option] and (cloud is None or is_from_command_line(context, option))
    }
    if cloud is None and (domain := openrc.user_domain(context)):
        given["userDomain"] = domain
    for element, read in (("interface", openrc.interface), ("keystoneVersion", openrc.version)):
        if value := read(given.get(element)):
            given[element] = value
    if cloud and cloud.warning:
        say(cloud.warning, console=err)
    account: dict[str, Any] = (cloud.account if cloud else {}) | given
    ca_bundle: Path | None = context.params["ca_bundle"]
    if ca_bundle and (cloud is None or is_from_command_line(context, "ca_bundle")):
        account |= read_bundle(ca_bundle)
    return account


def _other_account(context: typer.Context, platform: Platform) -> dict[str, Any]:
    """Return what the command's own options say of an account that is not OpenStack's. Raises `InvalidRequest`."""
    elements = {"login": "login", "ca_bundle": "caBundle", "keystone_url": "", "glance_url": "", "user_domain": ""}
    elements |= {"interface": "", "keystone_version": "", "from_clouds_yaml": ""}
    has = {each.name for each in platform.account_fields}
    account: dict[str, Any] = {}
    for option, element in elements.items():
        if not is_from_command_line(context, option):
            continue
        if element not in has:
            raise InvalidRequest(f"--{option.replace('_', '-')} is no option of the platform {platform.name}")
        value = context.params[option]
        account |= read_bundle(value) if option == "ca_bundle" else {element: value}
    return account


def _password(stdin: bool, cloud: Cloud | None, login: str | None) -> str:
    if stdin:
        return password_from_stdin()
    # Like the other variables, this one may be about another cloud.
    found = cloud.password if cloud else os.environ.get(CLOUD_VARIABLE)
    instead = "use --password-stdin" if cloud else f"set {CLOUD_VARIABLE}, or use --password-stdin"
    return found or ask_password(f"Password of {login or 'the cloud account'}", instead=instead)
