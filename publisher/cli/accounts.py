"""`publisher accounts`: cloud accounts kept here, for requests to name instead of telling them whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from publisher.cli import passwords
from publisher.cli.certificates import CaBundle, read_bundle
from publisher.cli.completion import users
from publisher.cli.examples import examples
from publisher.cli.installation import open_store, read_settings
from publisher.cli.output import Json, iso, print_json, print_table, say
from publisher.core.errors import InvalidRequest, NotFound

app = typer.Typer(help="Cloud accounts kept here.", no_args_is_help=True)

FILE_VARIABLE = "OS_CLIENT_CONFIG_FILE"
CLOUDS_FILES = (
    Path("clouds.yaml"),
    Path("~/.config/openstack/clouds.yaml"),
    Path("/etc/openstack/clouds.yaml"),
)
"""Where OpenStack's own clients look, in their order; the first that is there is read, and no other."""
_VERSIONS = {"3": "v3", "v3": "v3", "2": "v2.0", "2.0": "v2.0", "v2.0": "v2.0"}

User = Annotated[str, typer.Option(help="Whose account it is.", autocompletion=users)]


@dataclass(frozen=True, slots=True)
class _Cloud:
    """What a clouds.yaml tells of one cloud."""

    account: dict[str, str]
    password: str | None


@app.command(
    epilog=examples("accounts add production --user anna", "accounts add production --from-clouds-yaml mycloud")
)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The name to keep it under.")],
    user: User = "root",
    platform: Annotated[str, typer.Option(help="The kind of cloud.")] = "openstack",
    keystone_url: Annotated[str | None, typer.Option(envvar="OS_AUTH_URL", help="Keystone's address.")] = None,
    glance_url: Annotated[
        str | None, typer.Option(help="Glance's address; taken from Keystone's catalog if not given.")
    ] = None,
    login: Annotated[str | None, typer.Option(envvar="OS_USERNAME", help="Login of the cloud account.")] = None,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read the cloud account's password from the standard input; else it is that of the clouds.yaml or of"
            f" {passwords.CLOUD_VARIABLE}, or asked for.",
        ),
    ] = False,
    keystone_version: Annotated[
        str | None, typer.Option(metavar="v3|v2.0", help="Found out by asking Keystone if not given.")
    ] = None,
    ca_bundle: CaBundle = None,
    from_clouds_yaml: Annotated[
        str | None,
        typer.Option(metavar="CLOUD", help="Take what no option gives from this cloud of a clouds.yaml."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help=f"The clouds.yaml; else that of {FILE_VARIABLE}, or the first of"
            f" {', '.join(str(each) for each in CLOUDS_FILES)}."
        ),
    ] = None,
) -> None:
    """Keep a cloud account under a name.

    What is not given is taken from the clouds.yaml, where one is asked for, else from the OS_… variables.
    Domain, project and region are told by each request to publish.
    """
    from publisher.core.network import OutboundPolicy
    from publisher.core.publishing import check_account
    from publisher.core.vault import Vault

    if file and not from_clouds_yaml:
        raise InvalidRequest("--file needs --from-clouds-yaml CLOUD")
    cloud = _read_cloud(from_clouds_yaml, file) if from_clouds_yaml else None
    options = {"keystone_url": "keystoneUrl", "glance_url": "glanceUrl", "login": "login"}
    options["keystone_version"] = "keystoneVersion"
    given = {
        element: str(context.params[option])
        for option, element in options.items()
        # A variable is about another cloud than the one that was asked for.
        if context.params[option] and (cloud is None or _is_from_command_line(context, option))
    }
    account: dict[str, Any] = (cloud.account if cloud else {}) | given
    if ca_bundle and (cloud is None or _is_from_command_line(context, "ca_bundle")):
        account |= read_bundle(ca_bundle)
    settings = read_settings()
    with open_store(settings) as store:
        password = _password(password_stdin, cloud, account.get("login"))
        secrets = {"password": password}
        check_account(platform, account, secrets, policy=OutboundPolicy.of(settings))
        vault = Vault.from_file(settings.key_file, production=settings.production)
        stored = store.accounts.add(
            owner=user, name=name, platform=platform, fields=account, sealed_secrets=vault.seal(secrets)
        )
    say(f"Added the account '{stored.name}' of {stored.owner}, number {stored.id}")


@app.command("list", epilog=examples("accounts list", "accounts list --user anna --json"))
def list_(
    user: Annotated[str | None, typer.Option(help="Those of this user alone.", autocompletion=users)] = None,
    as_json: Json = False,
) -> None:
    """List the accounts, without their secrets."""
    with open_store(read_settings()) as store:
        accounts = store.accounts.list(user)
    if as_json:
        print_json(
            {
                "accounts": [
                    {
                        "id": each.id,
                        "user": each.owner,
                        "name": each.name,
                        "platform": each.platform,
                        "fields": each.fields,
                        "created": iso(each.created),
                        "modified": iso(each.modified),
                    }
                    for each in accounts
                ]
            }
        )
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
def remove(name: Annotated[str, typer.Argument(help="The account's name.")], user: User = "root") -> None:
    """Remove an account. What is being published with it goes on."""
    with open_store(read_settings()) as store:
        found = store.accounts.find(user, name=name)
        if found is None:
            raise NotFound(f"{user} has no account '{name}'; see: publisher accounts list")
        store.accounts.remove(user, found.id)
    say(f"Removed the account '{name}' of {user}")


def _is_from_command_line(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _password(stdin: bool, cloud: _Cloud | None, login: str | None) -> str:
    if stdin:
        return passwords.from_stdin()
    # As with the other variables: that one is about another cloud.
    found = cloud.password if cloud else os.environ.get(passwords.CLOUD_VARIABLE)
    instead = "use --password-stdin" if cloud else f"set {passwords.CLOUD_VARIABLE}, or use --password-stdin"
    return found or passwords.ask(f"Password of {login or 'the cloud account'}", instead=instead)


def _read_cloud(name: str, file: Path | None) -> _Cloud:
    """Raises `InvalidRequest` where there is no such file or cloud, or it signs in without a password."""
    path = file or _clouds_file()
    clouds = _mapping(_read_yaml(path), "clouds", path)
    if name not in clouds:
        raise InvalidRequest(f"{path} has no cloud '{name}'; it has {', '.join(map(str, clouds)) or 'none'}")
    cloud = _mapping(clouds, name, path)
    auth = _mapping(cloud, "auth", path)
    kind = str(cloud.get("auth_type") or "password")
    if kind.removeprefix("v2").removeprefix("v3") != "password":
        raise InvalidRequest(f"cloud '{name}' of {path} signs in by {kind}; only password is supported")
    version = str(cloud.get("identity_api_version") or "")
    found = {
        "keystoneUrl": auth.get("auth_url"),
        "glanceUrl": cloud.get("image_endpoint_override"),
        "login": auth.get("username"),
        "keystoneVersion": _VERSIONS.get(version, version),
    }
    account = {element: str(value) for element, value in found.items() if value}
    if cloud.get("cacert"):
        account |= read_bundle(Path(str(cloud["cacert"])).expanduser())
    return _Cloud(account, str(auth["password"]) if auth.get("password") else None)


def _clouds_file() -> Path:
    if named := os.environ.get(FILE_VARIABLE):
        return Path(named)
    for path in CLOUDS_FILES:
        if path.expanduser().is_file():
            return path.expanduser()
    raise InvalidRequest(f"there is none of {', '.join(map(str, CLOUDS_FILES))}; name the file with --file")


def _read_yaml(path: Path) -> dict[Any, Any]:
    import yaml

    class Texts(yaml.SafeLoader):
        """Reads every value as the text that stands there: a password of digits is no number."""

        # All that is left is `<<`, which merges what is shared.
        yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}

    try:
        read = yaml.load(path.read_text("utf-8"), Texts)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # Its own words would quote the line, and there may be a password on it.
        mark = getattr(error, "problem_mark", None)
        raise InvalidRequest(f"{path} is not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    return read if isinstance(read, dict) else {}


def _mapping(parent: dict[Any, Any], name: str, path: Path) -> dict[Any, Any]:
    found = parent.get(name)
    if not isinstance(found, dict):
        raise InvalidRequest(f"{path} has no '{name}' with entries below it")
    return found
