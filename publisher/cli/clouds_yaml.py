"""Read a cloud of a clouds.yaml as a cloud account, as the `openstack` command reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from publisher.cli import openrc
from publisher.cli.openrc import read_bundle
from publisher.core.errors import InvalidRequest

FILE_VARIABLE = "OS_CLIENT_CONFIG_FILE"
CLOUDS_FILES = (
    Path("clouds.yaml"),
    Path("~/.config/openstack/clouds.yaml"),
    Path("/etc/openstack/clouds.yaml"),
)
"""Places of the file, in the order of OpenStack's own clients. Only the first file that exists is read."""
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
    password: str | None = field(repr=False)
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


def read_cloud(name: str, file: Path | None) -> Cloud:
    """Read one cloud from a clouds.yaml.

    Raises `InvalidRequest` if the file or the cloud is missing, or if it signs in without a password.
    """
    path = file or _clouds_file()
    clouds = _mapping(_read_yaml(path), "clouds", path)
    if name not in clouds:
        raise InvalidRequest(f"{path} has no cloud '{name}'; it has {', '.join(map(str, clouds)) or 'none'}")
    cloud = _mapping(clouds, name, path)
    config = _CloudConfig(cloud, _mapping(cloud, "auth", path))
    kind = config.first("auth_type") or "password"
    if kind.removeprefix("v2").removeprefix("v3") != "password":
        raise InvalidRequest(f"cloud '{name}' of {path} signs in by {kind}; only password is supported")
    user_domain = config.first(*_OF_THE_USER, "default_domain")
    # The project's domain matters here in one case: if it is given and the user's domain is not, the user is in the
    # first domain.
    project_domain = cloud["auth"].get(_OF_THE_PROJECT[0]) or cloud["auth"].get(_OF_THE_PROJECT[1])
    found = {
        "keystoneUrl": config.first("auth_url"),
        "glanceUrl": config.first("image_endpoint_override"),
        "login": config.first("username", "user_name"),
        "userDomain": user_domain or (openrc.FIRST_DOMAIN if project_domain else None),
        "interface": openrc.interface(config.first("image_interface", "interface", "endpoint_type")),
        "keystoneVersion": openrc.version(config.first("identity_api_version")),
    }
    account = {element: value for element, value in found.items() if value}
    if bundle := config.first("cacert"):
        account |= read_bundle(Path(bundle).expanduser())
    password = config.first("password")
    return Cloud(account, password, config.unused())


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
