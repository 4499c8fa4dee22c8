"""`publisher accounts` with values from options, variables and clouds.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from publisher.cli import openstack_login
from publisher.cli.accounts_command import option_name, read_options
from publisher.core.errors import InvalidRequest
from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.platforms.platform import platform_of
from publisher.store import Store
from tests.command import Cli
from tests.servers.certificates import authority

PASSWORD = "hunter2-of-the-cloud"
KEYSTONE = "https://cloud.example.com:5000"
OPTIONS = ("--keystone-url", KEYSTONE, "--login", "demo")

CLOUDS = f"""
shared: &shared
  auth_url: {KEYSTONE}/v3
clouds:
  lab:
    auth: {{<<: *shared, username: anna, password: 0123, project_name: demo}}
    identity_api_version: 3
    image_endpoint_override: https://glance.example.com
    region_name: RegionOne
  bare:
    auth: {{<<: *shared, username: ben}}
  old:
    auth_type: v2password
    auth: {{auth_url: {KEYSTONE}, username: zoe, password: "{PASSWORD}"}}
    identity_api_version: "2.0"
  federated:
    auth_type: v3oidcpassword
    auth: {{auth_url: {KEYSTONE}, username: anna, password: "{PASSWORD}"}}
  empty:
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own clouds.yaml."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setattr(openstack_login, "CLOUDS_FILES", openstack_login.CLOUDS_FILES[:2])


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    file = tmp_path / "some.yaml"
    file.write_text(CLOUDS)
    return file


def secret(store: Store, name: str, owner: str = "root") -> str:
    found = store.accounts.find(owner, name=name)
    assert found
    return Vault.from_file(Settings.from_environment().key_file).open(found.sealed_secrets)["password"]


@pytest.mark.parametrize("way", ["standard input", "variable"])
def test_account_is_added_listed_and_removed(cli: Cli, cli_store: Store, way: str) -> None:
    if way == "variable":
        said = cli.ok("accounts", "add", "lab", *OPTIONS, OS_PASSWORD=PASSWORD)
    else:
        said = cli.ok("accounts", "add", "lab", *OPTIONS, "--password-stdin", input=f"{PASSWORD}\n")
    assert said == "Added the account 'lab' of root, number 1\n"
    (listed,) = cli.json("accounts", "list")["accounts"]
    assert listed.pop("created") <= listed.pop("modified"), "the database may read its clock twice"
    fields = {"keystone_url": KEYSTONE, "login": "demo"}
    assert listed == {"id": 1, "user": "root", "name": "lab", "platform": "openstack", "fields": fields}
    assert cli.ok("accounts", "list") == f"1\troot\tlab\topenstack\tdemo\t{KEYSTONE}\n"
    assert secret(cli_store, "lab") == PASSWORD
    assert cli.ok("accounts", "remove", "lab", "--yes") == "Removed the account 'lab' of root\n"
    assert cli.json("accounts", "list") == {"accounts": []}


def test_account_belongs_to_the_given_user(cli: Cli) -> None:
    cli.ok("users", "add", "anna", "--password-stdin", input="x\n")
    cli.ok("accounts", "add", "lab", "--user", "anna", *OPTIONS, OS_PASSWORD=PASSWORD)
    assert cli.json("accounts", "list", "--user", "root") == {"accounts": []}
    assert [each["user"] for each in cli.json("accounts", "list", "--user", "anna")["accounts"]] == ["anna"]
    assert cli.run("accounts", "remove", "lab", "--yes").exit_code == 2
    cli.ok("accounts", "remove", "lab", "--user", "anna", "--yes")


def test_missing_options_come_from_the_variables(cli: Cli, cli_store: Store) -> None:
    cli.ok("accounts", "add", "lab", OS_AUTH_URL=KEYSTONE, OS_USERNAME="demo", OS_PASSWORD=PASSWORD)
    found = cli_store.accounts.find("root", name="lab")
    assert found
    assert found.fields == {"keystoneUrl": KEYSTONE, "login": "demo"}


def test_account_is_read_from_clouds_yaml(cli: Cli, cli_store: Store, clouds: Path) -> None:
    variables = {"OS_AUTH_URL": "https://another.example.com", "OS_USERNAME": "another", "OS_PASSWORD": "another"}
    cli.ok("accounts", "add", "lab", "--from-clouds-yaml", "lab", "--file", clouds, **variables)
    cli.ok("accounts", "add", "old", "--from-clouds-yaml", "old", "--file", clouds, "--login", "given", **variables)
    lab, old = cli_store.accounts.list()
    assert lab.fields == {
        "keystoneUrl": f"{KEYSTONE}/v3",
        "glanceUrl": "https://glance.example.com",
        "login": "anna",
        "keystoneVersion": "v3",
    }
    assert secret(cli_store, "lab") == "0123", "text, although it looks like a number"
    assert old.fields == {"keystoneUrl": KEYSTONE, "login": "given", "keystoneVersion": "v2.0"}
    assert secret(cli_store, "old") == PASSWORD
    cli.ok("accounts", "add", "b", "--from-clouds-yaml", "bare", "--file", clouds, "--password-stdin", input="typed\n")
    assert secret(cli_store, "b") == "typed"


@pytest.mark.parametrize(
    ("told", "fields"),
    [
        ({}, {}),
        ({"OS_USER_DOMAIN_NAME": "people", "OS_PROJECT_DOMAIN_NAME": "lab"}, {"userDomain": "people"}),
        ({"OS_USER_DOMAIN_ID": "4711", "OS_USER_DOMAIN_NAME": "people"}, {"userDomain": "4711"}),
        ({"OS_PROJECT_DOMAIN_NAME": "lab"}, {"userDomain": "default"}),
        ({"OS_INTERFACE": "internal"}, {"interface": "internal"}),
        ({"OS_ENDPOINT_TYPE": "adminURL"}, {"interface": "admin"}),
        ({"OS_IDENTITY_API_VERSION": "3"}, {"keystoneVersion": "v3"}),
        ({"OS_IDENTITY_API_VERSION": "2"}, {"keystoneVersion": "v2.0"}),
    ],
    ids=str,
)
def test_variables_of_an_openrc_become_account_fields(
    cli: Cli, cli_store: Store, told: dict[str, str], fields: dict[str, str]
) -> None:
    cli.ok("accounts", "add", "lab", OS_AUTH_URL=KEYSTONE, OS_USERNAME="demo", OS_PASSWORD=PASSWORD, **told)
    (found,) = cli_store.accounts.list()
    assert found.fields == {"keystoneUrl": KEYSTONE, "login": "demo"} | fields


@pytest.mark.parametrize(
    ("auth", "beside", "fields"),
    [
        ("user_domain_name: people, project_domain_name: lab", "", {"userDomain": "people"}),
        ("user_domain_name: people, user_domain_id: 4711", "", {"userDomain": "4711"}),
        ("domain_name: both", "", {"userDomain": "both"}),
        ("domain_id: 4711, user_domain_name: people", "", {"userDomain": "4711"}),
        ("project_domain_name: lab", "", {"userDomain": "default"}),
        ("user-domain-name: people", "", {"userDomain": "people"}),
        ("", "user_domain_name: beside", {"userDomain": "beside"}),
        ("", "interface: internal", {"interface": "internal"}),
        ("", "endpoint_type: internalURL", {"interface": "internal"}),
        ("", "", {}),
    ],
)
def test_domain_and_interface_are_read_from_clouds_yaml(
    cli: Cli, cli_store: Store, clouds: Path, auth: str, beside: str, fields: dict[str, str]
) -> None:
    text = f"clouds:\n  lab:\n    auth: {{auth_url: {KEYSTONE}, username: a, password: b, {auth}}}\n"
    clouds.write_text(text + (f"    {beside}\n" if beside else ""))
    cli.ok("accounts", "add", "lab", "--from-clouds-yaml", "lab", "--file", clouds)
    (found,) = cli_store.accounts.list()
    assert found.fields == {"keystoneUrl": KEYSTONE, "login": "a"} | fields


def test_unused_entries_of_clouds_yaml_are_named(cli: Cli, clouds: Path) -> None:
    clouds.write_text(
        f"clouds:\n  lab:\n    auth: {{auth_url: {KEYSTONE}, username: a, password: {PASSWORD}, user_domain_name: d,"
        " project_name: p, passcode: secret-passcode, project_domain_name: d}\n"
        "    auth_type: v3password\n    identity_api_version: 3\n    interface: public\n    verify: false\n"
        "    cert: /tmp/client.pem\n    region_name: RegionOne\n    profile: vexxhost\n    image_api_version: 2\n"
    )
    added = cli.run("accounts", "add", "lab", "--from-clouds-yaml", "lab", "--file", clouds)
    assert added.exit_code == 0
    said = " ".join(added.stderr.split())
    assert said == (
        "Ignored in clouds.yaml: verify, cert, region_name, profile, image_api_version, auth.project_name,"
        " auth.passcode, auth.project_domain_name. Each publish request names the project, its domain and the region."
        " Certificates are always verified; give the cloud's CA certificates as cacert or with --ca-bundle"
    )
    clouds.write_text(f"clouds: {{lab: {{auth: {{auth_url: {KEYSTONE}, username: a, password: b}}}}}}\n")
    assert cli.run("accounts", "add", "all", "--from-clouds-yaml", "lab", "--file", clouds).stderr == ""


def test_clouds_yaml_is_found_in_the_standard_places(cli: Cli, cli_store: Store, clouds: Path) -> None:
    home = Path.home()
    places = [home / ".config/openstack/clouds.yaml", home / "clouds.yaml", home / "named.yaml"]
    for number, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(CLOUDS.replace("anna", f"anna-{number}"))
        named = {"OS_CLIENT_CONFIG_FILE": str(place)} if number == 2 else {}
        cli.ok("accounts", "add", f"lab-{number}", "--from-clouds-yaml", "lab", **named)
        found = cli_store.accounts.find("root", name=f"lab-{number}")
        assert found
        assert found.fields["login"] == f"anna-{number}", "each goes before the one before"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "lab"], "keystoneUrl: is needed"),
        (["add", "lab", "--keystone-url", "ftp://x", "--login", "x"], "keystoneUrl: must be an address"),
        (["add", "lab", *OPTIONS, "--keystone-version", "v4"], "keystoneVersion: "),
        (["add", "lab", *OPTIONS, "--user", "nobody"], "there is no user 'nobody'"),
        (["add", "lab", *OPTIONS, "--platform", "nimbus"], "'nimbus' is not supported here"),
        (["add", " ", *OPTIONS], "name: "),
        (["add", "taken", *OPTIONS], "there is an account 'taken' already"),
        (["add", "lab", *OPTIONS, "--file", "x"], "--file needs --from-clouds-yaml"),
        (["add", "lab", "--from-clouds-yaml", "lab"], "there is none of clouds.yaml"),
        (["add", "lab", "--from-clouds-yaml", "cloud", "--file", "{file}"], "it has lab, bare, old, federated, empty"),
        (
            ["add", "lab", "--from-clouds-yaml", "federated", "--file", "{file}"],
            "signs in by v3oidcpassword; an",
        ),
        (["add", "lab", "--from-clouds-yaml", "empty", "--file", "{file}"], "no 'empty' with entries"),
        (["remove", "nothing"], "root has no account 'nothing'"),
    ],
)
def test_invalid_arguments_are_refused_with_a_reason(cli: Cli, clouds: Path, arguments: list[str], words: str) -> None:
    cli.ok("accounts", "add", "taken", *OPTIONS, OS_PASSWORD=PASSWORD)
    result = cli.run("accounts", *(each.format(file=clouds) for each in arguments), OS_PASSWORD=PASSWORD)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(cli.json("accounts", "list")["accounts"]) == 1


def test_missing_password_without_a_terminal_is_refused(cli: Cli, clouds: Path) -> None:
    assert "set OS_PASSWORD, or use --password-stdin" in cli.run("accounts", "add", "lab", *OPTIONS).stderr
    result = cli.run("accounts", "add", "lab", "--from-clouds-yaml", "bare", "--file", clouds, OS_PASSWORD=PASSWORD)
    assert result.stderr == "Error: cannot ask for a password without a terminal; use --password-stdin\n"


@pytest.mark.parametrize(
    "text", [f"clouds:\n  lab: {{password: {PASSWORD}", f"clouds: [{PASSWORD}", PASSWORD, "", "- x"]
)
def test_broken_clouds_yaml_is_named_but_not_quoted(cli: Cli, clouds: Path, text: str) -> None:
    clouds.write_text(text)
    result = cli.run("accounts", "add", "lab", "--from-clouds-yaml", "lab", "--file", clouds)
    assert result.exit_code == 2
    assert str(clouds) in result.stderr
    assert PASSWORD not in result.stderr


def test_ca_bundle_is_read_from_option_variable_or_clouds_yaml(
    cli: Cli, cli_store: Store, clouds: Path, tmp_path: Path
) -> None:
    pem, file = authority(tmp_path).pem, tmp_path / "ca.pem"
    file.write_text(pem)
    clouds.write_text(CLOUDS.replace("region_name: RegionOne", f"cacert: {file}"))
    from_cloud = ("--from-clouds-yaml", "lab", "--file", clouds)
    cli.ok("accounts", "add", "a", *OPTIONS, "--ca-bundle", file, OS_PASSWORD=PASSWORD)
    cli.ok("accounts", "add", "b", *OPTIONS, OS_PASSWORD=PASSWORD, OS_CACERT=str(file))
    cli.ok("accounts", "add", "c", *from_cloud, OS_CACERT="another.pem")
    assert [each.fields["caBundle"] for each in cli_store.accounts.list()] == [pem] * 3
    file.write_text("nonsense")
    refused = cli.run("accounts", "add", "d", *OPTIONS, "--ca-bundle", file, OS_PASSWORD=PASSWORD)
    assert (refused.exit_code, refused.stderr) == (
        2, "Error: caBundle: holds no certificates that can be read; give them as PEM text\n",
    )  # fmt: skip
    missing = cli.run("accounts", "add", "d", *OPTIONS, "--ca-bundle", tmp_path / "none", OS_PASSWORD=PASSWORD)
    assert missing.exit_code == 1
    assert "No such file" in missing.stderr


def test_production_mode_refuses_a_loopback_address(cli: Cli) -> None:
    options = ("--keystone-url", "http://127.0.0.1:5000", "--login", "demo")
    refused = cli.run("accounts", "add", "lab", *options, OS_PASSWORD=PASSWORD, PUBLISHER_PRODUCTION="true")
    assert refused.exit_code == 2
    assert "keystoneUrl: '127.0.0.1' is a loopback address" in refused.stderr


def test_openstack_variables_do_not_apply_to_another_platform(cli: Cli) -> None:
    """The platform's fields are options. OpenStack's variables describe another cloud."""
    cli.ok(
        "accounts", "add", "other", "--platform", "memory", "--login=joe", "--password-stdin", input=f"{PASSWORD}\n",
        OS_USERNAME="somebody", OS_AUTH_URL="http://elsewhere",
    )  # fmt: skip
    (account,) = cli.json("accounts", "list")["accounts"]
    assert (account["platform"], account["fields"]) == ("memory", {"login": "joe"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--logn", "joe"], "--logn is not an option of the platform memory; it has --login"),
        (["--keystone-url", "http://k"], "--keystone-url is not an option of the platform memory"),
        (["--from-clouds-yaml", "lab"], "--from-clouds-yaml is not an option of the platform memory"),
        (["surplus"], "surplus is not an option of the platform memory"),
        (["--password", "x"], "--password is not an option of the platform memory"),
    ],
)
def test_unknown_option_of_a_platform_is_refused(cli: Cli, options: list[str], words: str) -> None:
    result = cli.run("accounts", "add", "x", "--platform", "memory", *options, "--password-stdin", input="secret\n")
    assert result.exit_code == 2
    assert words in result.stderr


def test_platform_fields_are_read_from_options() -> None:
    vsphere = platform_of("vsphere")
    given = ["--hostname", "vc.example.com", "--port=443", "--proxy-host", "proxy"]
    assert read_options(given, vsphere) == {"hostname": "vc.example.com", "port": 443, "proxyHost": "proxy"}
    for wrong in (["--port", "x"], ["--port"], ["--password", "x"]):
        with pytest.raises(InvalidRequest, match=wrong[0]):
            read_options(wrong, vsphere)
    assert option_name("accessKeyId") == "--access-key-id"
