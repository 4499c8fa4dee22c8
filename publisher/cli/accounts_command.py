"""`publisher accounts`: manage stored cloud accounts, which requests can name instead of sending them whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli import openstack_login, programs
from publisher.cli.command import (
    CLOUD_VARIABLE,
    Installation,
    Json,
    Yes,
    ask_password,
    complete_users,
    confirm,
    err,
    examples,
    iso,
    open_installation,
    open_store,
    password_from_stdin,
    print_json,
    print_table,
    read_settings,
    say,
    snake_case,
)
from publisher.cli.openstack_credentials import Credential, OpenrcVariables, read_credential, secret_called
from publisher.cli.openstack_login import (
    CLOUDS_FILES,
    FILE_VARIABLE,
    AuthType,
    CaBundle,
    Cloud,
    CommandLine,
    CredentialId,
    CredentialName,
    Interface,
    KeystoneVersion,
    TrustId,
    UserDomain,
    is_from_command_line,
    read_bundle,
    read_cloud,
)
from publisher.core.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from publisher.platforms.platform import Field, Platform
    from publisher.store import StoredAccount

commands = typer.Typer()
app = typer.Typer(help="Manage stored cloud accounts.", no_args_is_help=True)
commands.add_typer(app, name="accounts")

Name = Annotated[str, typer.Argument(help="Name of the account.")]
User = Annotated[str, typer.Option(help="User who owns the account.", autocompletion=complete_users)]

NameTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="TEMPLATE",
        help="Template of the names of images published with this account, such as {name}-{version}-{date}.",
    ),
]


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
            help="Read the password (or the token, or the application credential's secret) from the first line of"
            f" standard input. Otherwise it comes from clouds.yaml, {CLOUD_VARIABLE} or a prompt."
            " The second line is the password of the account's proxy, if it has one (--proxy-login)."
            " Other platforms: one line for each secret.",
        ),
    ] = False,
    user_domain: UserDomain = None,
    auth_type: AuthType = None,
    application_credential_id: CredentialId = None,
    application_credential_name: CredentialName = None,
    trust_id: TrustId = None,
    interface: Interface = None,
    keystone_version: KeystoneVersion = None,
    ca_bundle: CaBundle = None,
    name_template: NameTemplate = None,
    from_clouds_yaml: Annotated[
        str | None,
        typer.Option(
            metavar="CLOUD",
            envvar="OS_CLOUD",
            help="Take missing values from this cloud in a clouds.yaml file, and from secure.yaml.",
        ),
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
    from publisher.platforms.openstack import OpenStack
    from publisher.platforms.platform import check_installed, platform_of
    from publisher.services import cloud_accounts

    if file and not from_clouds_yaml:
        raise InvalidRequest("--file needs --from-clouds-yaml CLOUD")
    check_installed(platform)
    described = platform_of(platform)
    more = read_options(context.args, described)
    with open_installation() as installation:
        if isinstance(described, OpenStack):
            options = CommandLine(context)
            cloud = read_cloud(from_clouds_yaml, file, options) if from_clouds_yaml else None
            credential = cloud.credential if cloud else read_credential(options, OpenrcVariables(), "the environment")
            account = _openstack_account(context, cloud, credential) | more
            secrets = {credential.element: _secret(password_stdin, cloud, credential)}
            secrets |= _proxy_secret(account, password_stdin)
        else:
            # The OS_… variables and the clouds.yaml describe OpenStack's accounts only.
            account = _other_account(context, described) | more
            secrets = read_secrets(described, stdin=password_stdin)
        if name_template:
            account["nameTemplate"] = name_template
        stored = cloud_accounts.create(
            installation.store,
            installation.vault,
            owner=user,
            name=name,
            platform=platform,
            fields=account,
            secrets=secrets,
            policy=installation.policy,
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
    from publisher.platforms.platform import platform_of

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
            platform_of(each.platform).signs_in_as(each.fields),
            str(each.fields.get("keystoneUrl", "")),
        ]
        for each in accounts
    ]
    print_table(["Id", "User", "Name", "Platform", "Login", "Address"], rows)


@app.command(epilog=examples("accounts remove production --user anna"))
def remove(name: Name, user: User = "root", yes: Yes = False) -> None:
    """Remove an account. Tickets that already use it continue."""
    with open_installation() as installation:
        found = find_account(installation, user, name)
        confirm(f"Remove the account '{name}' of {user}, with its password?", yes=yes)
        installation.store.accounts.remove(user, found.id)
    say(f"Removed the account '{name}' of {user}")


@app.command("show", epilog=examples("accounts show production", "accounts show production --user anna --json"))
def show(name: Name, user: User = "root", as_json: Json = False) -> None:
    """Show an account, without its secrets."""
    with open_installation() as installation:
        account = find_account(installation, user, name)
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


@app.command(
    "set",
    epilog=examples(
        "accounts set production --new-password",
        "accounts set production --password-stdin < password",
        "accounts set production --rename staging",
        'accounts set production --keystone-version ""',
    ),
)
def change(
    name: Name,
    user: User = "root",
    rename: Annotated[str | None, typer.Option(metavar="NAME", help="New name of the account.")] = None,
    keystone_url: Annotated[str | None, typer.Option(metavar="URL", help="Keystone's URL.")] = None,
    glance_url: Annotated[str | None, typer.Option(metavar="URL", help="Glance's URL.")] = None,
    login: Annotated[str | None, typer.Option(help="Login name in the cloud.")] = None,
    user_domain: Annotated[str | None, typer.Option(help="Name or id of the user's Keystone v3 domain.")] = None,
    application_credential_id: Annotated[str | None, typer.Option(help="Id of an application credential.")] = None,
    application_credential_name: Annotated[str | None, typer.Option(help="Name of an application credential.")] = None,
    trust_id: Annotated[str | None, typer.Option(help="Id of a trust that the login was given.")] = None,
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
    name_template: NameTemplate = None,
    proxy_url: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of the proxy that only this cloud is reached through.")
    ] = None,
    proxy_login: Annotated[str | None, typer.Option(metavar="LOGIN", help="Login that the proxy requires.")] = None,
    no_proxy: Annotated[
        str | None, typer.Option(metavar="HOSTS", help="Hosts of the cloud that are reached without its proxy.")
    ] = None,
    new_password: Annotated[
        bool, typer.Option("--new-password", help="Prompt for a new password or other secret.")
    ] = False,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin", help="Read the new password or other secret from the first line of standard input."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Change an account. Omitted options keep their values; an empty value ("") removes one.

    The command ignores the OS_… variables.
    If a URL or who signs in changes, it needs the password or other secret again.
    A credential of another kind replaces the old one: --application-credential-id removes the login.
    An account with neither a login nor an application credential has a token.
    Tickets that have not ended keep the old values; publisher tickets retry uses the new ones.
    """
    from publisher.platforms.platform import platform_of
    from publisher.services import cloud_accounts

    given = {"keystoneUrl": keystone_url, "glanceUrl": glance_url, "login": login, "userDomain": user_domain}
    given |= {"applicationCredentialId": application_credential_id, "trustId": trust_id}
    given |= {"proxyUrl": proxy_url, "proxyLogin": proxy_login, "noProxy": no_proxy}
    given["applicationCredentialName"] = application_credential_name
    given["nameTemplate"] = name_template
    given["interface"] = openstack_login.interface(interface) if interface else interface
    given["keystoneVersion"] = openstack_login.version(keystone_version) if keystone_version else keystone_version
    fields: dict[str, Any] = {element: value or None for element, value in given.items() if value is not None}
    fields |= read_bundle(ca_bundle) if ca_bundle else {}
    if not (fields or rename or new_password or password_stdin):
        raise InvalidRequest("nothing to change; name what is to change, see: publisher accounts set --help")
    with open_installation() as installation:
        present = find_account(installation, user, name)
        described = platform_of(present.platform)
        element = described.main_secret(present.fields | fields)
        who = described.signs_in_as(present.fields | fields)
        secrets = _new_secrets(new_password, password_stdin, element, who)
        proxied = present.fields | fields
        if secrets:
            secrets |= _proxy_secret(proxied, password_stdin)
        store, vault, policy = installation.store, installation.vault, installation.policy
        change_it = partial(cloud_accounts.change, store, vault, present, name=rename, fields=fields, policy=policy)
        try:
            changed = change_it(secrets=secrets)
        except cloud_accounts.SecretNeeded:
            called = secret_called(element)
            instead = f"as the address or the login changes, the {called} is needed again: use --password-stdin"
            asked = ask_password(f"{called.capitalize()} for the new address or login", instead=instead)
            changed = change_it(secrets={element: asked} | _proxy_secret(proxied, stdin=False))
    if as_json:
        print_json(account_json(changed))
    else:
        say(f"Changed the account '{changed.name}' of {changed.owner}")


@app.command(
    "test",
    epilog=examples(
        "accounts test production --project demo --domain Default",
        "accounts test production --project demo --json",
    ),
)
def try_out(
    name: Name,
    user: User = "root",
    project: Annotated[str | None, typer.Option(help="Name or id of the Keystone v3 project.")] = None,
    domain: Annotated[str | None, typer.Option(help="Name or id of the project's Keystone v3 domain.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Name of the Keystone v2.0 tenant.")] = None,
    region: Annotated[str | None, typer.Option(help="Region to publish to.")] = None,
    as_json: Json = False,
) -> None:
    """Sign in to the cloud with an account, and show what works and what it can see. Nothing is uploaded.

    The command ignores the OS_… variables. The exit code is 1 if a step fails.
    """
    given = {"keystoneProject": project, "keystoneDomain": domain, "tenantName": tenant, "publishLocation": region}
    target = {element: value for element, value in given.items() if value}
    with open_installation() as installation:
        find_account(installation, user, name)
    command = programs.sign_in(user=user, account=name, target=target, as_json=as_json)
    programs.become(command, programs.configured(installation.settings))


def find_account(installation: Installation, user: str, name: str) -> StoredAccount:
    """Return a user's account by its name. Raises `NotFound`."""
    found = installation.store.accounts.find(user, name=name)
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


def _new_secrets(ask: bool, stdin: bool, element: str, who: str) -> dict[str, str]:
    if ask and stdin:
        raise InvalidRequest("use either --new-password or --password-stdin")
    if stdin:
        return {element: password_from_stdin()}
    if ask:
        return {element: ask_password(f"New {secret_called(element)} of {who}", instead="use --password-stdin")}
    return {}


def _openstack_account(context: typer.Context, cloud: Cloud | None, credential: Credential) -> dict[str, Any]:
    """Return the account that the options, the clouds.yaml or the OS_… variables describe, without its secret."""
    options = {"keystone_url": "keystoneUrl", "glance_url": "glanceUrl"}
    options |= {"keystone_version": "keystoneVersion", "user_domain": "userDomain", "interface": "interface"}
    given = {
        element: str(context.params[option])
        for option, element in options.items()
        # If a cloud was named, the variables may be about another one.
        if context.params[option] and (cloud is None or is_from_command_line(context, option))
    }
    if cloud is None and (domain := openstack_login.user_domain(context)):
        given["userDomain"] = domain
    for element, read in (("interface", openstack_login.interface), ("keystoneVersion", openstack_login.version)):
        if value := read(given.get(element)):
            given[element] = value
    if cloud and cloud.warning:
        say(cloud.warning, console=err)
    account: dict[str, Any] = (cloud.account if cloud else {}) | given | credential.fields
    if "login" not in account:
        # Variables and clouds.yaml may name the domain of a user that this credential does not need.
        account.pop("userDomain", None)
    ca_bundle: Path | None = context.params["ca_bundle"]
    if ca_bundle and (cloud is None or is_from_command_line(context, "ca_bundle")):
        account |= read_bundle(ca_bundle)
    return account


def _other_account(context: typer.Context, platform: Platform) -> dict[str, Any]:
    """Return what the command's own options say of an account that is not OpenStack's. Raises `InvalidRequest`."""
    elements = {"login": "login", "ca_bundle": "caBundle", "keystone_url": "", "glance_url": "", "user_domain": ""}
    elements |= {"interface": "", "keystone_version": "", "from_clouds_yaml": "", "auth_type": ""}
    elements |= {"application_credential_id": "", "application_credential_name": "", "trust_id": ""}
    has = {each.name for each in platform.account_fields}
    account: dict[str, Any] = {}
    for option, element in elements.items():
        if not is_from_command_line(context, option):
            continue
        if element not in has:
            raise InvalidRequest(f"--{option.replace('_', '-')} is not an option of the platform {platform.name}")
        value = context.params[option]
        account |= read_bundle(value) if option == "ca_bundle" else {element: value}
    return account


def _secret(stdin: bool, cloud: Cloud | None, credential: Credential) -> str:
    if stdin:
        return password_from_stdin()
    instead = "use --password-stdin" if cloud else f"set {credential.variable}, or use --password-stdin"
    called = secret_called(credential.element).capitalize()
    login = credential.fields.get("login") or "the cloud account"
    return credential.secret or ask_password(f"{called} of {login}", instead=instead)


def _proxy_secret(account: Mapping[str, Any], stdin: bool) -> dict[str, str]:
    """Return the password of the account's own proxy: the next line of the standard input, or from the terminal."""
    if not account.get("proxyLogin"):
        return {}
    if stdin:
        return {"proxyPassword": password_from_stdin()}
    instead = "use --password-stdin: the second line is the password of the proxy"
    return {"proxyPassword": ask_password(f"Password of {account['proxyLogin']} at the proxy", instead=instead)}


# Options that a platform defines: `--access-key-id` for its element `accessKeyId` -----------------


def option_name(element: str) -> str:
    """Return the option of an element."""
    return "--" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", element).lower()


def read_options(arguments: Sequence[str], platform: Platform) -> dict[str, Any]:
    """Read the elements of an account from `--option value` and `--option=value`. Raises `InvalidRequest`."""
    from publisher.platforms.values import from_text

    known = {option_name(each.name): each for each in _plain_fields(platform)}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option, given, value = rest.pop(0).partition("=")
        if option not in known:
            options = ", ".join(known) or "none"
            raise InvalidRequest(f"{option} is not an option of the platform {platform.name}; it has {options}")
        if not given:
            if not rest:
                raise InvalidRequest(f"{option} needs a value")
            value = rest.pop(0)
        field = known[option]
        found[field.name] = from_text(field, value, option)
    return found


def read_secrets(platform: Platform, *, stdin: bool) -> dict[str, str]:
    """Read the account's secrets: one line each of the standard input, in the platform's order, or at the terminal."""
    secrets = [each for each in platform.account_fields if each.secret and _has_one_value(each)]
    if stdin:
        return {each.name: password_from_stdin() for each in secrets}
    return {each.name: ask_password(each.name, instead="use --password-stdin") for each in secrets}


def _plain_fields(platform: Platform) -> list[Field]:
    return [each for each in platform.account_fields if not each.secret and _has_one_value(each)]


def _has_one_value(field: Field) -> bool:
    from publisher.platforms.platform import Kind

    return field.kind not in (Kind.LIST, Kind.OBJECT, Kind.POLYMORPHIC)
