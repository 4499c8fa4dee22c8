"""Signing in to OpenStack: domains, projects, and addresses with a `%`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1.identity import v3

from publisher.core.errors import PermanentCloudError, TransientCloudError
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import EVERYWHERE
from tests.keystone_v2 import KeystoneV2Stub
from tests.servers.uploads import Upload, upload_server
from workers.bounded import BoundedCloud
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import _SIGN_INS, OpenStackPublisher
from workers.clouds.openstack.session import SignIn, _scoped, _unscoped
from workers.transfer import Transfer

PASSWORD = "hunter2-of-the-cloud"
AN_ID = "8ac0a8bb14944a3a9d2c3f2e5f0a7c11"


def signed_in(account: dict[str, Any], target: dict[str, Any]) -> tuple[v3.Password, v3.PasswordMethod]:
    fields = {"keystoneUrl": "http://127.0.0.1:9", "login": "joe"} | account
    who = SignIn.of(Account("openstack", fields, {"password": PASSWORD}), Target("openstack", target))
    scoped = _scoped(who, "v3")
    (method,) = scoped.auth_methods
    (again,) = _unscoped(who, "v3").auth_methods
    domains = method.user_domain_id, method.user_domain_name
    assert (again.user_domain_id, again.user_domain_name) == domains, "the same user, with a project or without"
    return scoped, method


@pytest.mark.parametrize(
    ("user_domain", "keystone_domain", "of_user", "of_project"),
    [
        (None, None, ("default", None), ("default", None)),
        (None, "lab", (None, "lab"), (None, "lab")),
        ("people", "lab", (None, "people"), (None, "lab")),
        ("people", None, (None, "people"), ("default", None)),
        ("default", "lab", ("default", None), (None, "lab")),
        (AN_ID, "lab", (AN_ID, None), (None, "lab")),
        ("people", AN_ID, (None, "people"), (AN_ID, None)),
        ("", "lab", (None, "lab"), (None, "lab")),
    ],
)
def test_domains_of_user_and_project_follow_account_and_target(
    user_domain: str | None,
    keystone_domain: str | None,
    of_user: tuple[str | None, str | None],
    of_project: tuple[str | None, str | None],
) -> None:
    target = {"keystoneDomain": keystone_domain, "keystoneProject": "p"}
    scoped, method = signed_in({"userDomain": user_domain}, target)
    assert (method.user_domain_id, method.user_domain_name) == of_user
    assert (scoped.project_domain_id, scoped.project_domain_name) == of_project
    assert (scoped.project_id, scoped.project_name) == (None, "p")


def test_project_id_is_sent_as_an_id_without_a_domain() -> None:
    scoped, _ = signed_in({}, {"keystoneProject": AN_ID})
    assert (scoped.project_id, scoped.project_name, scoped.project_domain_id) == (AN_ID, None, None)


# Addresses ------------------------------------------------------------------------------------------------------------


def glance(upload: Upload) -> None:
    """Answer an upload with 204, and any other request with an empty list of images."""
    if upload.head.startswith(b"PUT"):
        upload.read_body()
        upload.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    else:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\nConnection: close\r\n\r\n"
        upload.answer(head + b'{"images": []}')


@pytest.mark.parametrize(
    ("path", "written"),
    [("/a%20b", "/a%20b"), ("/100%", "/100%25"), ("/%s", "/%25s"), ("/%(user_id)s", "/%25(user_id)s")],
)
@pytest.mark.parametrize("told_by", ["account", "catalog"])
def test_percent_sign_in_glance_address_is_escaped(tmp_path: Path, path: str, written: str, told_by: str) -> None:
    (tmp_path / "disk").write_bytes(b"a disk")
    with (
        upload_server(glance) as server,
        KeystoneV2Stub(f"http://127.0.0.1:{server.port}{path}", users={"joe": PASSWORD}, tenants={"t"}) as keystone,
        (tmp_path / "disk").open("rb") as file,
    ):
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0"}
        fields |= {"glanceUrl": f"http://127.0.0.1:{server.port}{path}"} if told_by == "account" else {}
        account = Account("openstack", fields, {"password": PASSWORD})
        cloud = OpenStackPublisher.connect(
            account, Target("openstack", {"tenantName": "t"}), Timeouts(5, 20, 20), EVERYWHERE
        )
        assert cloud.tagged("deployment") == []
        assert cloud._put("1", Transfer(file.fileno(), 6)).status == 204
        cloud.close()
    assert [each.head.split()[1].decode().partition("?")[0] for each in server.uploads] == [
        f"{written}/v2/images", f"{written}/v2/images/1/file",
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["v3", "v2.0", None])
@pytest.mark.parametrize("path", ["/%", "/%zz", "/%s", "/%(user_id)s"])
def test_percent_sign_in_keystone_address_is_accepted(version: str | None, path: str) -> None:
    fields = {"keystoneUrl": f"http://127.0.0.1:9{path}", "login": "joe", "keystoneVersion": version}
    account = Account("openstack", fields, {"password": PASSWORD})
    with pytest.raises(TransientCloudError, match="connection refused"):
        OpenStackPublisher.connect(account, Target("openstack", {"tenantName": "t"}), Timeouts(5, 20, 20), EVERYWHERE)


@pytest.mark.parametrize("element", ["keystoneUrl", "glanceUrl"])
def test_percent_sign_in_a_host_name_is_refused(element: str) -> None:
    with KeystoneV2Stub("", users={"joe": PASSWORD}, tenants={"t"}) as keystone:
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0", element: "http://ho%st:9"}
        account = Account("openstack", fields, {"password": PASSWORD})
        with pytest.raises(PermanentCloudError, match=f"http://ho%st:9: the address is not valid; check {element}"):
            OpenStackPublisher.connect(
                account, Target("openstack", {"tenantName": "t"}), Timeouts(5, 20, 20), EVERYWHERE
            ).tagged("deployment")


# Projects of a cloud --------------------------------------------------------------------------------------------------


def test_error_names_only_20_of_many_projects() -> None:
    tenants = {f"tenant-{number:03}" for number in range(40)}
    with KeystoneV2Stub("", users={"joe": PASSWORD}, tenants=tenants) as keystone:
        fields = {"keystoneUrl": keystone.url, "login": "joe", "keystoneVersion": "v2.0"}
        account = Account("openstack", fields, {"password": PASSWORD})
        with pytest.raises(PermanentCloudError, match=r"may use: tenant-000, .*, tenant-019, and 20 more$"):
            OpenStackPublisher.connect(
                account, Target("openstack", {"tenantName": "x"}), Timeouts(5, 20, 20), EVERYWHERE
            )


# Sign-ins that are kept -----------------------------------------------------------------------------------------------


@pytest.fixture
def keystone() -> Iterator[KeystoneV2Stub]:
    with KeystoneV2Stub("http://127.0.0.1:9", users={"joe": PASSWORD, "ann": PASSWORD}, tenants={"t", "u"}) as keystone:
        yield keystone


class Glance:
    """Answers each request with an empty list, if its token is valid."""

    def __init__(self, keystone: KeystoneV2Stub) -> None:
        self._keystone = keystone

    def __call__(self, upload: Upload) -> None:
        token = re.search(rb"(?i)x-auth-token: (\S+)", upload.head)
        valid = token is not None and token[1].decode() in self._keystone._tokens
        status, body = (b"200 OK", b'{"images": []}') if valid else (b"401 Unauthorized", b"{}")
        length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        upload.answer(b"HTTP/1.1 " + status + b"\r\n" + length + body)


def connected(keystone: KeystoneV2Stub, glance_port: int, **given: str) -> BoundedCloud:
    fields = {"keystoneUrl": keystone.url, "login": given.get("login", "joe"), "keystoneVersion": "v2.0"}
    account = Account(
        "openstack",
        fields | {"glanceUrl": f"http://127.0.0.1:{glance_port}"},
        {"password": given.get("password", PASSWORD)},
    )
    target = Target("openstack", {"tenantName": given.get("tenant", "t"), "displayName": given.get("name", "one")})
    return BoundedCloud.connect(OpenStackPublisher, account, target, Timeouts(5, 20, 20), EVERYWHERE)


def test_next_ticket_of_an_account_uses_its_sign_in(keystone: KeystoneV2Stub) -> None:
    with upload_server(Glance(keystone)) as glance:
        for name in ("one", "two"):
            cloud = connected(keystone, glance.port, name=name)
            assert cloud.kept is (name == "two")
            assert cloud.tagged("deployment") == []
            cloud.close()
        assert len(keystone._tokens) == 1


@pytest.mark.parametrize("other", [{"login": "ann"}, {"tenant": "u"}])
def test_another_login_or_project_signs_in_itself(keystone: KeystoneV2Stub, other: dict[str, str]) -> None:
    with upload_server(Glance(keystone)) as glance:
        connected(keystone, glance.port).tagged("deployment")
        cloud = connected(keystone, glance.port, **other)
        assert not cloud.kept
        assert cloud.tagged("deployment") == []


def test_wrong_password_does_not_get_the_sign_in_of_the_right_one(keystone: KeystoneV2Stub) -> None:
    with upload_server(Glance(keystone)) as glance:
        connected(keystone, glance.port).tagged("deployment")
        with pytest.raises(PermanentCloudError, match="rejected the login"):
            connected(keystone, glance.port, password="another")


def test_refused_token_is_replaced_once_and_the_new_one_is_kept(keystone: KeystoneV2Stub) -> None:
    with upload_server(Glance(keystone)) as glance:
        connected(keystone, glance.port).tagged("deployment")
        keystone.revoke_tokens()
        cloud = connected(keystone, glance.port)
        assert cloud.kept
        assert cloud.tagged("deployment") == []
        again = connected(keystone, glance.port)
        assert again.kept
        assert again.tagged("deployment") == []
        assert len(keystone._tokens) == 1


def test_changed_password_ends_the_sign_in(keystone: KeystoneV2Stub) -> None:
    with upload_server(Glance(keystone)) as glance:
        connected(keystone, glance.port).tagged("deployment")
        keystone.revoke_tokens()
        keystone.users = {"joe": "a new password"}
        with pytest.raises(TransientCloudError):
            connected(keystone, glance.port).tagged("deployment")
        with pytest.raises(PermanentCloudError, match="rejected the login"):
            connected(keystone, glance.port)


def test_token_that_lives_too_short_is_not_kept(keystone: KeystoneV2Stub) -> None:
    keystone.token_seconds = -1
    with upload_server(Glance(keystone)) as glance:
        connected(keystone, glance.port).tagged("deployment")
        assert not connected(keystone, glance.port).kept


def test_kept_sign_in_holds_no_password(keystone: KeystoneV2Stub) -> None:
    with upload_server(Glance(keystone)) as glance:
        connected(keystone, glance.port).tagged("deployment")
    (kept,) = (each for _, each in _SIGN_INS._kept.values() if keystone.url in repr(each.access._data))
    assert PASSWORD not in repr(kept.access._data)
