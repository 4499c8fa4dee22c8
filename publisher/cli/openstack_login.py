"""Logins to OpenStack that other programs keep: the OS_… variables of an openrc file, clouds.yaml and secure.yaml.

Both are read as the `openstack` command reads them. The rules are those of openstacksdk (`openstack/config/loader.py`),
osc-lib (`client_config.py`) and keystoneauth:

- An id goes before a name.
- A variable for the user or the project goes before `OS_DOMAIN_…`, and `OS_PROJECT_…` before `OS_TENANT_…`.
- A domain that is not given is the one with the id `default`, separately for the user and the project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from publisher.cli.openstack_credentials import Credential, Entries, read_credential
from publisher.core.errors import InvalidRequest

FIRST_DOMAIN = "default"
ACCOUNT, TARGET = "Cloud account", "Target"
"""The headings under which a command with many options shows these."""
_VERSIONS = {"3": "v3", "2": "v2.0", "2.0": "v2.0"}


def _domain_variables(whose: str) -> list[str]:
    return [f"OS_{whose}_DOMAIN_ID", "OS_DOMAIN_ID", f"OS_{whose}_DOMAIN_NAME", "OS_DOMAIN_NAME", "OS_DEFAULT_DOMAIN"]


def version(text: str | None) -> str | None:
    """Return a version of the Identity API as the element `keystoneVersion` has it; any other text unchanged."""
    return _VERSIONS.get(text.removeprefix("v"), text) if text else None


def interface(text: str | None) -> str | None:
    """Return an interface without the suffix `URL`: `publicURL` is the same as `public`."""
    return text.removesuffix("URL") if text else None


Project = Annotated[
    str | None,
    typer.Option(
        envvar=["OS_PROJECT_ID", "OS_TENANT_ID", "OS_PROJECT_NAME"],
        help="Name or id of the Keystone v3 project.",
        rich_help_panel=TARGET,
    ),
]
ProjectDomain = Annotated[
    str | None,
    typer.Option(
        envvar=_domain_variables("PROJECT"),
        help="Name or id of the project's Keystone v3 domain. Also the user's domain, if nothing else sets it.",
        rich_help_panel=TARGET,
    ),
]
UserDomain = Annotated[
    str | None,
    typer.Option(
        envvar=_domain_variables("USER"),
        help="Name or id of the user's Keystone v3 domain.",
        rich_help_panel=ACCOUNT,
    ),
]
Tenant = Annotated[
    str | None, typer.Option(envvar="OS_TENANT_NAME", help="Name of the Keystone v2.0 tenant.", rich_help_panel=TARGET)
]
Region = Annotated[
    str | None,
    typer.Option(
        envvar="OS_REGION_NAME",
        help="Region to publish to. Required if the cloud has several.",
        rich_help_panel=TARGET,
    ),
]
Interface = Annotated[
    str | None,
    typer.Option(
        envvar=["OS_INTERFACE", "OS_ENDPOINT_TYPE"],
        metavar="public|internal|admin",
        help="Interface of the Glance endpoint in Keystone's catalog (default: public).",
        rich_help_panel=ACCOUNT,
    ),
]
KeystoneVersion = Annotated[
    str | None,
    typer.Option(
        envvar="OS_IDENTITY_API_VERSION",
        metavar="v3|v2.0",
        help="Version of the Keystone API (default: detected by asking Keystone).",
        rich_help_panel=ACCOUNT,
    ),
]


def is_from_command_line(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def user_domain(context: typer.Context) -> str | None:
    """Return the user's domain.

    It comes from the option and its variables. If the variables give only the project's domain, it is the first domain.
    None: it is the same as the project's.
    """
    given: str | None = context.params.get("user_domain")
    if given or is_from_command_line(context, "domain"):
        return given
    named = any(os.environ.get(name) for name in _domain_variables("PROJECT"))
    return FIRST_DOMAIN if named else None


def project(context: typer.Context) -> str | None:
    """Return the Keystone v3 project; None if the command line names a tenant instead, whatever the variables say."""
    if is_from_command_line(context, "tenant") and not is_from_command_line(context, "project"):
        return None
    found: str | None = context.params.get("project")
    return found


AuthType = Annotated[
    str | None,
    typer.Option(
        envvar="OS_AUTH_TYPE",
        metavar="TYPE",
        help="How to sign in: v3password, v3token or v3applicationcredential (default: by the other options).",
    ),
]
CredentialId = Annotated[
    str | None, typer.Option(envvar="OS_APPLICATION_CREDENTIAL_ID", help="Id of an application credential.")
]
CredentialName = Annotated[
    str | None,
    typer.Option(
        envvar="OS_APPLICATION_CREDENTIAL_NAME", help="Name of an application credential, if its id is not given."
    ),
]
TrustId = Annotated[str | None, typer.Option(envvar="OS_TRUST_ID", help="Id of a trust that the login was given.")]


class CommandLine:
    """The credential's options, as far as the command line itself gives them."""

    _OPTIONS: ClassVar[Mapping[str, str]] = {
        "auth_type": "auth_type",
        "username": "login",
        "application_credential_id": "application_credential_id",
        "application_credential_name": "application_credential_name",
        "trust_id": "trust_id",
    }

    def __init__(self, context: typer.Context) -> None:
        self._context = context

    def first(self, *names: str) -> str | None:
        """Return the value of the first of these options that has one."""
        for name in names:
            option = self._OPTIONS.get(name)
            if option and is_from_command_line(self._context, option) and (value := self._context.params[option]):
                return str(value)
        return None


CaBundle = Annotated[
    Path | None,
    typer.Option(
        envvar="OS_CACERT",
        help="PEM file of the CA certificates to trust for this cloud, instead of the workers' own.",
    ),
]


def read_bundle(file: Path) -> dict[str, str]:
    """Read a CA bundle into the account's element, unchecked. Raises `OSError`."""
    return {"caBundle": file.read_text("utf-8", "replace")}


# clouds.yaml --------------------------------------------------------------------------------------

FILE_VARIABLE, SECURE_FILE_VARIABLE = "OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE"
CLOUDS_FILES = (
    Path("clouds.yaml"),
    Path("~/.config/openstack/clouds.yaml"),
    Path("/etc/openstack/clouds.yaml"),
)
"""Places of the file, in the order of OpenStack's own clients. Only the first file that exists is read.

The secrets may be in a file `secure.yaml` at one of these places.
"""
_TOLD_BY_REQUESTS = {
    "project_id", "project_name", "project_domain_id", "project_domain_name", "tenant_id", "tenant_name", "region_name",
    "regions",
}  # fmt: skip
_OF_THE_USER = ("user_domain_id", "domain_id", "user_domain_name", "domain_name")
_OF_THE_PROJECT = ("project_domain_id", "project_domain_name")


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud of a clouds.yaml."""

    account: dict[str, str]
    credential: Credential
    unused: tuple[str, ...]
    """Names of the entries that are not used."""

    @property
    def warning(self) -> str | None:
        """A warning that names the unused entries, and says what to do; None if all are used."""
        if not self.unused:
            return None
        words = f"Ignored in clouds.yaml: {', '.join(self.unused)}"
        if {each.removeprefix("auth.") for each in self.unused} & _TOLD_BY_REQUESTS:
            words += ". Each publish request names the project, its domain and the region"
        if {"verify", "insecure"} & set(self.unused):
            words += (
                ". Certificates are always verified; give the cloud's CA certificates as cacert or with --ca-bundle"
            )
        return words


class _CloudConfig:
    """The entries of one cloud. Like OpenStack's clients, it also finds entries of `auth` that stand beside it."""

    def __init__(self, cloud: Mapping[Any, Any], auth: Mapping[Any, Any]) -> None:
        self._cloud, self._auth = cloud, auth
        self._used = {"auth"}

    def first(self, *names: str) -> str | None:
        """Return the value of the first of these names that has one. All of them count as used."""
        self._used |= set(names)
        for name in names:
            for name_there in (name, name.replace("_", "-")):
                if value := self._auth.get(name_there) or self._cloud.get(name_there):
                    self._used.add(name_there)
                    return str(value)
        return None

    def unused(self) -> tuple[str, ...]:
        names = [str(name) for name in self._cloud if name not in self._used]
        return tuple(names + [f"auth.{name}" for name in self._auth if name not in self._used])


def read_cloud(name: str, file: Path | None, options: Entries) -> Cloud:
    """Read one cloud from a clouds.yaml, and what secure.yaml adds to it. `options` go before its credential.

    Raises `InvalidRequest` if the file or the cloud is missing, or if an account cannot have its credential.
    """
    path = file or _clouds_file()
    secure = _secure_file(file)
    clouds = _mapping(_merged(_read_yaml(path), _read_yaml(secure) if secure else {}), "clouds", path)
    if name not in clouds:
        raise InvalidRequest(f"{path} has no cloud '{name}'; it has {', '.join(map(str, clouds)) or 'none'}")
    cloud = _mapping(clouds, name, path)
    config = _CloudConfig(cloud, _mapping(cloud, "auth", path))
    credential = read_credential(options, config, f"cloud '{name}' of {path}")
    user_domain = config.first(*_OF_THE_USER, "default_domain")
    # The project's domain matters here in one case: if it is given and the user's domain is not, the user is in the
    # first domain.
    project_domain = cloud["auth"].get(_OF_THE_PROJECT[0]) or cloud["auth"].get(_OF_THE_PROJECT[1])
    found = {
        "keystoneUrl": config.first("auth_url"),
        "glanceUrl": config.first("image_endpoint_override"),
        "userDomain": user_domain or (FIRST_DOMAIN if project_domain else None),
        "interface": interface(config.first("image_interface", "interface", "endpoint_type")),
        "keystoneVersion": version(config.first("identity_api_version")),
    }
    account = {element: value for element, value in found.items() if value}
    if bundle := config.first("cacert"):
        account |= read_bundle(Path(bundle).expanduser())
    return Cloud(account, credential, config.unused())


def _clouds_file() -> Path:
    if named := os.environ.get(FILE_VARIABLE):
        return Path(named)
    for path in CLOUDS_FILES:
        if path.expanduser().is_file():
            return path.expanduser()
    raise InvalidRequest(f"there is none of {', '.join(map(str, CLOUDS_FILES))}; name the file with --file")


def _secure_file(clouds_file: Path | None) -> Path | None:
    """Return the file with the secrets: beside a clouds.yaml that was named, or at one of the standard places."""
    places = [Path(named)] if (named := os.environ.get(SECURE_FILE_VARIABLE)) else []
    places += [each.with_name("secure.yaml") for each in ([clouds_file] if clouds_file else CLOUDS_FILES)]
    return next((path for each in places if (path := each.expanduser()).is_file()), None)


def _merged(base: dict[Any, Any], more: dict[Any, Any]) -> dict[Any, Any]:
    """Return `base` with the entries of `more`, which replace its own."""
    merged = dict(base)
    for name, value in more.items():
        present = merged.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            value = _merged(present, value)
        merged[name] = value
    return merged


def _read_yaml(path: Path) -> dict[Any, Any]:
    import yaml

    class Texts(yaml.SafeLoader):
        """Loads every value as the text in the file: a password of digits is not a number."""

        # Only `<<` is left, which merges shared entries.
        yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}

    try:
        read = yaml.load(path.read_text("utf-8"), Texts)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # The library's message would quote the line, which may contain a password.
        mark = getattr(error, "problem_mark", None)
        raise InvalidRequest(f"{path} is not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    return read if isinstance(read, dict) else {}


def _mapping(parent: dict[Any, Any], name: str, path: Path) -> dict[Any, Any]:
    found = parent.get(name)
    if not isinstance(found, dict):
        raise InvalidRequest(f"{path} has no '{name}' with entries below it")
    return found
