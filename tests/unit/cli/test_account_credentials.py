"""`publisher accounts` with application credentials, tokens and trusts, from options, variables, clouds.yaml and
secure.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from keystoneauth1.loading import get_available_plugin_names

from publisher.cli import openstack_login
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store, StoredAccount
from tests.command import Cli

pytestmark = pytest.mark.long

SECRET = "hunter2-of-the-cloud"
KEYSTONE = "https://cloud.example.com:5000"
URL = ("--keystone-url", KEYSTONE)
OPENRC = {"OS_AUTH_URL": KEYSTONE, "OS_USER_DOMAIN_NAME": "people", "OS_PROJECT_NAME": "demo"}
BY_ID = {"application_credential_id": "4711", "application_credential_secret": SECRET}
BY_NAME = {"application_credential_name": "ci", "application_credential_secret": SECRET, "username": "anna"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the machine's own clouds.yaml."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setattr(openstack_login, "CLOUDS_FILES", openstack_login.CLOUDS_FILES[:2])
    return home


def stored(store: Store, name: str = "lab") -> tuple[dict[str, Any], dict[str, str]]:
    """Return the elements of an account, without the address, and its secrets."""
    found = store.accounts.find("root", name=name)
    assert found
    fields = {name: value for name, value in found.fields.items() if value is not None}
    assert fields.pop("keystoneUrl") == KEYSTONE
    return fields, _opened(found)


def _opened(account: StoredAccount) -> dict[str, str]:
    return Vault.from_file(Settings.from_environment().key_file).open(account.sealed_secrets)


def write(file: Path, cloud: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"clouds": {"lab": cloud}}))


@pytest.mark.parametrize(
    ("auth_type", "auth", "fields", "secrets"),
    [
        ("v3applicationcredential", BY_ID, {"applicationCredentialId": "4711"}, "applicationCredentialSecret"),
        (None, BY_ID, {"applicationCredentialId": "4711"}, "applicationCredentialSecret"),
        (
            "v3applicationcredential",
            BY_ID | BY_NAME,
            {"applicationCredentialId": "4711"},
            "applicationCredentialSecret",
        ),
        (
            "v3applicationcredential",
            BY_NAME | {"user_domain_name": "people"},
            {"applicationCredentialName": "ci", "login": "anna", "userDomain": "people"},
            "applicationCredentialSecret",
        ),
        ("v3token", {"token": SECRET, "user_domain_name": "people"}, {}, "token"),
        ("token", {"token": SECRET}, {}, "token"),
        (None, {"token": SECRET}, {}, "token"),
        (None, {"username": "anna", "password": SECRET, "token": "x"}, {"login": "anna"}, "password"),
        (
            "v3password",
            {"username": "anna", "password": SECRET, "trust_id": "0815"},
            {"login": "anna", "trustId": "0815"},
            "password",
        ),
    ],
)
def test_each_kind_is_read_from_clouds_yaml_and_from_variables(
    cli: Cli, cli_store: Store, home: Path, auth_type: str | None, auth: dict[str, str], fields: dict[str, str],
    secrets: str,
) -> None:  # fmt: skip
    write(
        home / "clouds.yaml", {"auth": {"auth_url": KEYSTONE} | auth} | ({"auth_type": auth_type} if auth_type else {})
    )
    cli.ok("accounts", "add", "lab", "--from-clouds-yaml", "lab")
    assert stored(cli_store) == (fields, {secrets: SECRET})
    variables = {f"OS_{name.upper()}": value for name, value in auth.items()}
    variables |= {"OS_AUTH_TYPE": auth_type} if auth_type else {}
    cli.ok("accounts", "add", "rc", OS_AUTH_URL=KEYSTONE, **variables)
    assert stored(cli_store, "rc") == (fields, {secrets: SECRET})


def test_options_go_before_variables(cli: Cli, cli_store: Store) -> None:
    cli.ok(
        "accounts", "add", "a", "--application-credential-id", "4711", "--password-stdin", input=f"{SECRET}\n",
        **OPENRC, OS_USERNAME="joe", OS_PASSWORD="another",
    )  # fmt: skip
    assert stored(cli_store, "a") == ({"applicationCredentialId": "4711"}, {"applicationCredentialSecret": SECRET})
    cli.ok("accounts", "add", "b", *URL, "--auth-type", "v3token", "--password-stdin", input=f"{SECRET}\n")
    assert stored(cli_store, "b") == ({}, {"token": SECRET})
    refused = cli.run("accounts", "add", "c", *URL, "--auth-type", "v3applicationcredential")
    assert "set OS_APPLICATION_CREDENTIAL_SECRET, or use --password-stdin" in refused.stderr


def test_secure_yaml_adds_the_secrets(cli: Cli, cli_store: Store, home: Path, tmp_path: Path) -> None:
    public = {"auth_type": "v3applicationcredential", "auth": {"auth_url": KEYSTONE, "application_credential_id": "1"}}
    write(home / "clouds.yaml", public)
    write(home / ".config/openstack/secure.yaml", {"auth": {"application_credential_secret": SECRET}})
    cli.ok("accounts", "add", "lab", "--from-clouds-yaml", "lab")
    assert stored(cli_store) == ({"applicationCredentialId": "1"}, {"applicationCredentialSecret": SECRET})
    write(tmp_path / "named" / "clouds.yaml", public)
    write(tmp_path / "named" / "secure.yaml", {"auth": {"application_credential_secret": "beside it"}})
    cli.ok("accounts", "add", "named", "--from-clouds-yaml", "lab", "--file", tmp_path / "named" / "clouds.yaml")
    assert stored(cli_store, "named")[1] == {"applicationCredentialSecret": "beside it"}
    write(tmp_path / "s.yaml", {"auth": {"application_credential_secret": "by variable"}})
    cli.ok("accounts", "add", "by", "--from-clouds-yaml", "lab", OS_CLIENT_SECURE_FILE=str(tmp_path / "s.yaml"))
    assert stored(cli_store, "by")[1] == {"applicationCredentialSecret": "by variable"}
    (tmp_path / "s.yaml").write_text(f"clouds: [{SECRET}")
    broken = cli.run(
        "accounts", "add", "x", "--from-clouds-yaml", "lab", OS_CLIENT_SECURE_FILE=str(tmp_path / "s.yaml")
    )
    assert f"{tmp_path / 's.yaml'} is not valid YAML" in broken.stderr
    assert SECRET not in broken.stderr


def test_os_cloud_names_the_cloud(cli: Cli, cli_store: Store, home: Path) -> None:
    write(home / "clouds.yaml", {"auth": {"auth_url": KEYSTONE, "username": "anna", "password": SECRET}})
    cli.ok("accounts", "add", "lab", OS_CLOUD="lab", OS_USERNAME="another", OS_PASSWORD="another", OS_TRUST_ID="1")
    assert stored(cli_store) == ({"login": "anna"}, {"password": SECRET})
    unknown = cli.run("accounts", "add", "x", OS_CLOUD="nix")
    assert "clouds.yaml has no cloud 'nix'; it has lab" in unknown.stderr
    cli.ok(
        "accounts", "add", "m", "--platform", "memory", "--login", "a", "--password-stdin", input="x\n", OS_CLOUD="nix"
    )


@pytest.mark.parametrize("auth_type", sorted(get_available_plugin_names()))
def test_every_auth_type_is_stored_or_refused_by_name(cli: Cli, home: Path, auth_type: str) -> None:
    every = {"username": "anna", "password": SECRET, "token": SECRET, **BY_ID}
    write(home / "clouds.yaml", {"auth_type": auth_type, "auth": {"auth_url": KEYSTONE} | every})
    result = cli.run("accounts", "add", "lab", "--from-clouds-yaml", "lab")
    known = ("password", "v2password", "v3password", "token", "v3token", "v3applicationcredential")
    assert result.exit_code == (0 if auth_type in known else 2), result.stderr
    if auth_type not in known:
        assert f"signs in by {auth_type}; an account can have {', '.join(known)}" in result.stderr
        assert "create an application credential" in result.stderr
    assert SECRET not in result.stderr


@pytest.mark.parametrize("way", ["clouds.yaml", "variable"])
def test_system_scope_is_refused(cli: Cli, home: Path, way: str) -> None:
    auth = {"auth_url": KEYSTONE, "username": "anna", "password": SECRET}
    write(home / "clouds.yaml", {"auth": auth | {"system_scope": "all"}})
    variables = OPENRC | {"OS_USERNAME": "a", "OS_PASSWORD": SECRET, "OS_SYSTEM_SCOPE": "all"}
    refused = cli.run("accounts", "add", "lab", **({"OS_CLOUD": "lab"} if way == "clouds.yaml" else variables))
    assert refused.exit_code == 2
    assert "asks for system scope, but an image belongs to a project: remove system_scope" in refused.stderr


def test_account_changes_to_another_kind_of_credential(cli: Cli, cli_store: Store) -> None:
    cli.ok("accounts", "add", "lab", *URL, "--login", "anna", OS_PASSWORD="old")
    refused = cli.run("accounts", "set", "lab", "--application-credential-id", "4711")
    assert "the secret of the application credential is needed again: use --password-stdin" in refused.stderr
    cli.ok("accounts", "set", "lab", "--application-credential-id", "4711", "--password-stdin", input=f"{SECRET}\n")
    assert stored(cli_store) == ({"applicationCredentialId": "4711"}, {"applicationCredentialSecret": SECRET})
    assert cli.ok("accounts", "list") == f"1\troot\tlab\topenstack\tapplication credential 4711\t{KEYSTONE}\n"
    cli.ok("accounts", "set", "lab", "--application-credential-id", "", "--password-stdin", input="t\n")
    assert stored(cli_store) == ({}, {"token": "t"})


def test_account_with_a_proxy_needs_the_password_of_the_proxy_too(cli: Cli, cli_store: Store) -> None:
    options = ("--proxy-url", "http://proxy.example.com:3128", "--proxy-login", "worker", "--no-proxy", "10.0.0.0/8")
    elements = {"proxyUrl": "http://proxy.example.com:3128", "proxyLogin": "worker", "noProxy": "10.0.0.0/8"}
    both = f"{SECRET}\nhunter2-of-the-proxy\n"
    secrets = {"password": SECRET, "proxyPassword": "hunter2-of-the-proxy"}
    cli.ok("accounts", "add", "lab", *URL, "--login", "anna", *options, "--password-stdin", input=both)
    assert stored(cli_store) == ({"login": "anna", **elements}, secrets)
    refused = cli.run("accounts", "add", "x", *URL, "--login", "anna", *options, OS_PASSWORD=SECRET)
    assert "the second line is the password of the proxy" in refused.stderr
    # It can be added to an account, and removed again.
    cli.ok("accounts", "add", "later", *URL, "--login", "anna", OS_PASSWORD=SECRET)
    cli.ok("accounts", "set", "later", *options, "--password-stdin", input=both)
    assert stored(cli_store, "later") == ({"login": "anna", **elements}, secrets)
    gone = ("--proxy-url", "", "--proxy-login", "", "--no-proxy", "", "--password-stdin")
    cli.ok("accounts", "set", "later", *gone, input=f"{SECRET}\n")
    assert stored(cli_store, "later") == ({"login": "anna"}, {"password": SECRET})
