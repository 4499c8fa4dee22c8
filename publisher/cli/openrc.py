"""Options whose values an openrc file provides: the OS_… variables, read as the `openstack` command reads them.

The rules are those of openstacksdk (`openstack/config/loader.py`), osc-lib (`client_config.py`) and keystoneauth:

- An id goes before a name.
- A variable for the user or the project goes before `OS_DOMAIN_…`, and `OS_PROJECT_…` before `OS_TENANT_…`.
- A domain that is not given is the one with the id `default`, separately for the user and the project.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

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
