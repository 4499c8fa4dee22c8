"""Application credentials, tokens and trusts, before a Keystone sees them, and with one that answers nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from publisher.core.errors import CloudError, PermanentCloudError, TransientCloudError
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import EVERYWHERE
from tests.servers.uploads import Upload, upload_server
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.clouds.openstack.session import Reach, SignIn, sign_in
from workers.http_clients import trust

SECRET = "hunter2-of-the-cloud"
PROJECT = {"id": "1", "name": "p", "domain": {"id": "2", "name": "lab"}}

LIFE = {"issued_at": "2020-01-01T00:00:00.000000Z", "expires_at": "2099-01-01T00:00:00.000000Z"}


def account(url: str, secret: str, **fields: str) -> Account:
    return Account("openstack", {"keystoneUrl": url} | fields, {secret: SECRET})


class Keystone:
    """Answers each request with the same status and body, and keeps what it was sent."""

    def __init__(self, status: int, body: object) -> None:
        self._status, self._body = status, body if isinstance(body, bytes) else json.dumps(body).encode()
        self.heads: list[bytes] = []
        self.bodies: list[Any] = []

    def __call__(self, upload: Upload) -> None:
        self.heads.append(upload.head)
        if upload.head.startswith(b"POST"):
            upload.read_body()
            self.bodies.append(json.loads(upload.body))
        head = f"HTTP/1.1 {self._status} X\r\nContent-Length: {len(self._body)}\r\nX-Subject-Token: t-0-k-e-n\r\n"
        upload.answer(head.encode() + b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + self._body)


def sign_in_at(keystone: Keystone, secret: str, target: dict[str, str] | None = None, **fields: str) -> Any:
    with upload_server(keystone) as server:
        who = SignIn.of(account(f"http://127.0.0.1:{server.port}", secret, **fields), Target("openstack", target or {}))
        assert SECRET not in repr(who)
        return sign_in(who, Reach(Timeouts(5, 20, 20), EVERYWHERE, trust())).auth


def signed_in(secret: str, target: dict[str, str] | None = None, **fields: str) -> Any:
    """Return what Keystone was sent to sign in."""
    keystone = Keystone(201, {"token": {"project": PROJECT} | LIFE})
    sign_in_at(keystone, secret, target, **fields)
    (body,) = keystone.bodies
    return body["auth"]


def test_application_credential_is_sent_by_id_or_by_name_and_without_a_scope() -> None:
    by_id = signed_in("applicationCredentialSecret", {"keystoneProject": "p"}, applicationCredentialId="4711")
    sent = {"id": "4711", "secret": SECRET}
    assert by_id == {"identity": {"methods": ["application_credential"], "application_credential": sent}}
    by_name = signed_in("applicationCredentialSecret", applicationCredentialName="ci", login="joe", userDomain="people")
    named = {"name": "ci", "user": {"name": "joe", "domain": {"name": "people"}}, "secret": SECRET}
    assert by_name == {"identity": {"methods": ["application_credential"], "application_credential": named}}


def test_trust_is_the_scope_of_a_login() -> None:
    sent = signed_in("password", login="joe", trustId="0815")
    user = {"name": "joe", "domain": {"id": "default"}, "password": SECRET}
    assert sent["identity"] == {"methods": ["password"], "password": {"user": user}}
    assert sent["scope"] == {"OS-TRUST:trust": {"id": "0815"}}


def test_token_is_used_as_it_is() -> None:
    keystone = Keystone(200, {"token": {"project": PROJECT} | LIFE})
    auth = sign_in_at(keystone, "token", {"keystoneProject": "p", "keystoneDomain": "lab"})
    assert auth.auth_ref.auth_token == SECRET
    (head,) = keystone.heads
    assert head.startswith(b"GET /v3/auth/tokens ")


@pytest.mark.parametrize(
    ("token", "target", "words"),
    [
        ({"project": PROJECT}, {"keystoneProject": "q"}, r"keystoneProject: the token is for the project 'p' \(id 1\)"),
        (
            {"project": PROJECT},
            {"keystoneProject": "p", "keystoneDomain": "default"},
            r"keystoneDomain: the token is for the project 'p' \(id 1\) in the domain 'lab' \(id 2\), not in 'default'",
        ),
        ({"system": {"all": True}}, {}, "the token is for the whole system, but an image belongs to a project"),
        ({"domain": {"id": "2", "name": "lab"}}, {}, "the token is not for a project; give one that is"),
    ],
)
def test_credential_for_another_scope_is_refused(token: object, target: dict[str, str], words: str) -> None:
    with pytest.raises(PermanentCloudError, match=words):
        sign_in_at(Keystone(200, {"token": token}), "token", target)


@pytest.mark.parametrize(
    ("fields", "secret", "words"),
    [
        ({}, "token", "rejected the token: it has expired or was revoked.*credAccount.token"),
        (
            {"applicationCredentialId": "4711"},
            "applicationCredentialSecret",
            "rejected the application credential '4711': .*check credAccount.applicationCredentialId and credAccount",
        ),
        ({"login": "joe", "trustId": "0815"}, "password", "rejected the login 'joe'"),
    ],
)
def test_refused_credential_is_named_and_its_elements_too(fields: dict[str, str], secret: str, words: str) -> None:
    refusal = {"error": {"code": 401, "message": "The request you have made requires authentication."}}
    with pytest.raises(PermanentCloudError, match=words) as raised:
        sign_in_at(Keystone(401, refusal), secret, None, **fields)
    assert SECRET not in str(raised.value)


def test_wrong_address_is_not_taken_for_a_refused_credential() -> None:
    with pytest.raises(PermanentCloudError, match="answered 404") as raised:
        sign_in_at(Keystone(404, b"<html>no such page</html>"), "token")
    assert "rejected" not in str(raised.value)


@pytest.mark.parametrize("body", [b"", b"<html>", [], {}, {"token": []}, {"token": None}])
def test_answer_that_describes_no_token_is_an_error_of_the_cloud(body: object) -> None:
    with pytest.raises(CloudError, match="Keystone at"):
        sign_in_at(Keystone(200, body), "token")


@pytest.mark.parametrize(
    ("fields", "secret", "needed"),
    [
        ({"applicationCredentialId": "4711"}, "password", "applicationCredentialSecret"),
        ({"login": "joe"}, "token", "password"),
        ({"login": "joe", "trustId": "1"}, "applicationCredentialSecret", "password"),
        ({}, "applicationCredentialSecret", "password"),
    ],
)
def test_secret_of_another_kind_is_refused(fields: dict[str, str], secret: str, needed: str) -> None:
    """A request may add elements to a stored account, whose sealed secret does not belong to them."""
    with pytest.raises(PermanentCloudError, match=rf"credAccount\.{needed}: is needed to sign in"):
        SignIn.of(account("http://127.0.0.1:9", secret, **fields), Target("openstack"))


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"applicationCredentialId": "4711"}, "applicationCredentialSecret"),
        ({"login": "joe", "trustId": "0815"}, "password"),
        ({}, "token"),
    ],
)
def test_kept_sign_in_is_used_for_the_next_ticket(fields: dict[str, str], secret: str) -> None:
    keystone = Keystone(200, {"token": {"project": PROJECT} | LIFE, "images": []})
    with upload_server(keystone) as server:
        url = f"http://127.0.0.1:{server.port}"
        for kept in (False, True):
            cloud = OpenStackPublisher.connect(
                account(url, secret, glanceUrl=url, **fields), Target("openstack"), Timeouts(5, 20, 20), EVERYWHERE
            )
            assert cloud.kept is kept
            assert cloud.tagged("deployment") == []
            cloud.keep_sign_in()
            cloud.close()
        assert sum(b"/v3/auth/tokens " in each for each in keystone.heads) == 1
        with pytest.raises(TransientCloudError):
            OpenStackPublisher.connect(
                Account("openstack", {"keystoneUrl": "http://127.0.0.1:9"} | fields, {secret: "another"}),
                Target("openstack"),
                Timeouts(5, 20, 20),
                EVERYWHERE,
            )
