"""Each kind of sign-in, from a clouds.yaml to an image in a real Glance.

`publisher accounts add` reads the file, and so does the `openstack` command, which reads the image back. The publisher
reaches the cloud by a reverse proxy with TLS, under a path. The command goes there directly: it would follow the links
in Glance's answers, which do not know the path.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.devcloud.cloud import DevCloud
from publisher.store import Store
from tests.cloud_administration import PASSWORD, Administrator
from tests.clouds import Glance
from tests.command import Cli
from tests.patience import PATIENCE
from tests.records import add_image, current
from tests.servers.certificates import authority
from tests.servers.reverse_proxy import ReverseProxy, reverse_proxy
from workers.runner import Runner

pytestmark = pytest.mark.real

Kind = Callable[[Administrator, dict[str, Any], dict[str, Any]], tuple[dict[str, str], dict[str, str]]]
"""Returns what clouds.yaml and secure.yaml have under `auth`, for a user who is a member of a project."""


def password(_: Administrator, user: dict[str, Any], project: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    scope = {"project_id": project["id"]}
    return {"username": user["name"], "user_domain_id": "default", **scope}, {"password": PASSWORD}


def application_credential(
    administrator: Administrator, user: dict[str, Any], project: dict[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    made = administrator.application_credential(user, project)
    return {"application_credential_id": made["id"]}, {"application_credential_secret": made["secret"]}


def application_credential_by_name(
    administrator: Administrator, user: dict[str, Any], project: dict[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    made = administrator.application_credential(user, project)
    named = {"application_credential_name": made["name"], "username": user["name"], "user_domain_id": "default"}
    return named, {"application_credential_secret": made["secret"]}


def token(
    administrator: Administrator, user: dict[str, Any], project: dict[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    made = administrator.token({"id": user["id"], "password": PASSWORD}, {"project": {"id": project["id"]}})
    return {"project_id": project["id"]}, {"token": made}


def trust(
    administrator: Administrator, user: dict[str, Any], project: dict[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    taker = administrator.user("default")
    made = administrator.trust(user, taker, project)
    given = {"username": taker["name"], "user_domain_id": "default", "trust_id": made["id"]}
    return given, {"password": PASSWORD}


@pytest.fixture
def administrator(devcloud: DevCloud) -> Iterator[Administrator]:
    with Administrator.of(devcloud) as administrator:
        yield administrator


@pytest.fixture
def proxy(devcloud: DevCloud, tmp_path: Path) -> Iterator[ReverseProxy]:
    ours = authority(tmp_path)
    (tmp_path / "ca.pem").write_text(ours.pem)
    with reverse_proxy({"/identity": devcloud.keystone_url, "/image": devcloud.glance_url}, ours.server) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The `publisher` command of a new installation, in a home directory without files of OpenStack."""
    for variable in os.environ:
        if variable.startswith(("PUBLISHER_", "OS_")):
            monkeypatch.delenv(variable)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PUBLISHER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PUBLISHER_SEND_TIMEOUT_SECONDS", "0.2")
    return Cli(tmp_path)


@pytest.mark.parametrize(
    ("kind", "auth_type"),
    [
        (password, None),
        (application_credential, "v3applicationcredential"),
        (application_credential_by_name, "v3applicationcredential"),
        (token, "v3token"),
        (trust, "v3password"),
    ],
)
def test_image_is_published_with_each_kind_of_sign_in(
    devcloud: DevCloud,
    administrator: Administrator,
    proxy: ReverseProxy,
    cli: Cli,
    sqlite_store: Store,
    kind: Kind,
    auth_type: str | None,
) -> None:
    project = administrator.project("default")
    user = administrator.user("default", project)
    auth, secrets = kind(administrator, user, project)
    more = {"identity_api_version": "3"} | ({"auth_type": auth_type} if auth_type else {})
    behind = {"image_endpoint_override": f"{proxy.url}/image/v2", "cacert": str(cli.directory / "ca.pem"), **more}
    clouds = {
        "lab": {"auth": auth | {"auth_url": f"{proxy.url}/identity/v3"}, **behind},
        "direct": {"auth": auth | {"auth_url": f"{devcloud.keystone_url}/v3"}, **more},
    }
    Path("clouds.yaml").write_text(yaml.safe_dump({"clouds": clouds}))
    Path("secure.yaml").write_text(yaml.safe_dump({"clouds": {name: {"auth": secrets} for name in clouds}}))
    settings = Settings.from_environment()
    image = add_image(sqlite_store, settings.images, os.urandom(1 << 20))
    cli.ok("accounts", "add", "lab", "--user", "root", OS_CLOUD="lab")
    asked = ("--account", "lab", "--project", project["id"], "--property", "os_distro=debian", "--tag", "golden")
    number = cli.json("publish", image.id, *asked)["id"]
    assert Runner(sqlite_store, Vault.from_file(settings.key_file), settings, worker="w").run(number) is State.PUBLISHED
    assert {each.split("/")[1] for each in proxy.paths} == {"identity", "image"}
    published = current(sqlite_store, number)
    assert published.cloud_id
    shown = shown_image(devcloud, published.cloud_id)
    assert (shown["owner"], shown["status"], shown["size"]) == (project["id"], "active", 1 << 20)
    assert (shown["properties"]["os_distro"], shown["tags"]) == ("debian", ["golden"])
    Glance(devcloud, "admin").delete(published.cloud_id)


def shown_image(cloud: DevCloud, cloud_id: str) -> dict[str, Any]:
    """Return an image as the `openstack` command shows it, with the clouds.yaml in the present directory."""
    command = [str(cloud.openstack()), "--os-cloud", "direct", "image", "show", cloud_id, "-f", "json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120 * PATIENCE, check=False)
    assert run.returncode == 0, run.stderr
    shown: dict[str, Any] = json.loads(run.stdout)
    return shown
