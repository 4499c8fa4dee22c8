"""API keys, and requests signed with them."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store
from publisher.web.auth import API_SECRET, signature, signed_text
from tests.patience import PATIENCE
from tests.service import JSON, UFORGE, XML, Service, basic, real_server
from tests.unit.intake.contract import Key, make_key

PUBLIC, SECRET_KEY = "PUBKEY", "SECKEY+/x"
CHECK = "sk5vOb+K/oWJGI+5aLBxDDNf3vI="
BODY = f'<n:apiKeyPair xmlns:n="{UFORGE}"><name>ci</name><description>For the build</description></n:apiKeyPair>'


def insert(store: Store, vault: Vault, owner: str) -> None:
    sealed = vault.seal({API_SECRET: SECRET_KEY})
    store.api_keys.add(owner=owner, name="check", description="", public_key=PUBLIC, sealed_secret=sealed)


# Keys -------------------------------------------------------------------------------------------------------------


def test_secret_of_a_new_key_is_shown_once(fresh: Service, caplog: pytest.LogCaptureFixture) -> None:
    made = fresh.post("users/alice/apikeys", BODY, login="alice")
    assert (made.status, made.headers["cache-control"]) == (201, "no-store")
    assert [child.tag for child in made.xml] == [
        "created", "dbId", "digest", "lastModified", "name", "description", "publicKey", "secretKey", "uri",
    ]  # fmt: skip
    uri, public, secret = (made.text(name) for name in ("uri", "publicKey", "secretKey"))
    assert public
    assert secret
    assert made.headers["location"].endswith(f"/api/{uri}")
    for accept in (XML, JSON):
        listed = fresh.get("users/alice/apikeys", login="alice", accept=accept)
        assert public.encode() in listed.body
        assert b"secret" not in listed.body
        assert secret.encode() not in listed.body
    (pair,) = fresh.get("users/alice/apikeys", login="alice", accept=JSON).json["apiKeyPairs"]["apiKeyPair"]
    assert (pair["name"], pair["description"], pair["uri"]) == ("ci", "For the build", uri)
    found = fresh.store.api_keys.sealed_secret(public)
    assert found is not None
    assert secret.encode() not in found[1]
    assert secret not in caplog.text
    for file in fresh.settings.data_dir.glob("publisher.db*"):
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize("name", ["", "  ", "x" * 256])
def test_key_with_invalid_name_is_refused(service: Service, name: str) -> None:
    body = BODY.replace("<name>ci", f"<name>{name}")
    answer = service.post("users/alice/apikeys", body, login="alice")
    assert answer.status == 400
    assert answer.problem().startswith("name: ")


def test_caller_cannot_choose_the_public_or_secret_key(service: Service) -> None:
    body = BODY.replace("<name>", "<publicKey>mine</publicKey><secretKey>mine</secretKey><name>")
    made = service.post("users/alice/apikeys", body, login="alice", accept=JSON).json
    assert "mine" not in (made["publicKey"], made["secretKey"])


def test_deleted_key_is_refused_at_once(fresh: Service) -> None:
    pair = make_key(fresh, "alice")
    target = pair.sign("users/alice/pimages")
    assert fresh.get(target, login=None).status == 200
    assert fresh.call("DELETE", f"users/bob/apikeys/{pair.id}", login="bob").status == 404
    assert fresh.get(target, login=None).status == 200
    assert fresh.call("DELETE", f"users/alice/apikeys/{pair.id}", login="alice").status == 204
    assert fresh.get(target, login=None).status == 401
    assert fresh.call("DELETE", f"users/alice/apikeys/{pair.id}", login="alice").status == 404


def test_key_of_a_removed_user_is_refused_at_once(fresh: Service) -> None:
    target = make_key(fresh, "carol").sign("users/carol/roles")
    assert fresh.get(target, login=None).status == 200
    fresh.store.users.remove("carol")
    assert fresh.get(target, login=None).status == 401


# Signatures -------------------------------------------------------------------------------------------------------


def test_signature_matches_the_contracts_check_value() -> None:
    for path in (b"/api/status", b"/api//status"):
        text = signed_text(path, b"apiKey=PUBKEY")
        assert text == b"status?apiKey=PUBKEY"
        assert signature(SECRET_KEY, text) == CHECK.encode()
    assert signed_text(b"/%61pi/status", b"apiKey=PUBKEY") is None


@pytest.fixture(scope="module")
def pair(service: Service) -> Key:
    return make_key(service, "alice")


def ask(service: Service, target: str, key: Key, *, before: str = "/api/") -> int:
    made = quote_plus(signature(key.secret, target.encode()))
    return service.get(f"{before}{target}&signature={made}", login=None).status


def test_api_key_may_be_anywhere_in_the_query(service: Service, pair: Key) -> None:
    for query in ("apiKey={}", "apiKey={}&img=21", "img=21&apiKey={}", "a=1&apiKey={}&img=21", "x=%2B+%2f&apiKey={}"):
        for before in ("/api/", "/api//"):
            assert ask(service, f"users/alice/pimages?{query.format(pair.public)}", pair, before=before) == 200


def test_signature_covers_the_target_as_sent(service: Service, pair: Key) -> None:
    assert ask(service, f"users/%61lice/pimages?apiKey={pair.public}", pair) == 200
    signed = pair.sign("users/alice/pimages").partition("&signature=")[2]
    target = f"users/%61lice/pimages?apiKey={pair.public}&signature={signed}"
    assert service.get(target, login=None).status == 401


def test_wrongly_signed_request_is_refused(service: Service, pair: Key) -> None:
    target = "users/alice/pimages"
    good = pair.sign(target)
    right = good.partition("&signature=")[2]
    wrong = {
        "no signature": f"{target}?apiKey={pair.public}",
        "an empty one": f"{target}?apiKey={pair.public}&signature=",
        "something after it": f"{good}&img=21",
        "a second key after it": f"{good}&apiKey={pair.public}",
        "it comes first": f"{target}?signature={right}&apiKey={pair.public}",
        "two keys": pair.sign(f"{target}?apiKey={pair.public}"),
        "another parameter": good.replace("?", "?img=21&"),
        "another path": good.replace("pimages", "pimages/status"),
        "a leading slash": pair.sign(target, signed=f"/{target}?apiKey={pair.public}"),
        "the base path": pair.sign(target, signed=f"/api/{target}?apiKey={pair.public}"),
        "another secret": Key(pair.public, "x", 0).sign(target),
        "an unknown key": Key("nokey", pair.secret, 0).sign(target),
        "an empty key": Key("", pair.secret, 0).sign(target),
        "a key with a NUL": Key("%00", pair.secret, 0).sign(target),
        "a key that is too long": Key("x" * 5000, pair.secret, 0).sign(target),
        "bytes": f"{target}?apiKey={pair.public}&signature=%ff%00",
    }
    assert service.get(good, login=None).status == 200
    for why, each in wrong.items():
        for login in (None, "alice"):  # a password does not help
            answer = service.get(each, login=login)
            assert answer.status == 401, why
            assert answer.headers["www-authenticate"].startswith("Basic realm="), why
            assert pair.secret not in answer.problem()
            assert right not in answer.problem()


def test_key_overrides_the_login(service: Service, pair: Key) -> None:
    """The key's user counts, even if the request also has another user's login."""
    assert service.get(pair.sign("users/alice/pimages"), login="bob").status == 200
    assert service.get(pair.sign("users/alice/pimages"), login="bob", password="wrong").status == 200
    assert service.get(pair.sign("users/bob/pimages"), login="bob").status == 404
    assert service.get("users/alice/pimages?signature=x", login="alice").status == 200, "no key, no signature"


def test_status_needs_no_key_but_checks_a_signature_if_present(service: Service, pair: Key) -> None:
    assert service.get("status", login=None).status == 200
    assert service.get(pair.sign("status"), login=None).status == 200
    for wrong in ("status?apiKey=nokey&signature=x", f"status?apiKey={pair.public}", pair.sign("status", signed="x")):
        for accept in (XML, JSON, "text/plain, */*"):
            answer = service.get(wrong, login="alice", accept=accept)
            assert answer.status == 401
            assert answer.problem()


def test_a_public_document_ignores_signatures(service: Service) -> None:
    for path in ("schema/uforge.xsd", "openapi.json"):
        assert service.get(f"{path}?apiKey=nokey&signature=x", login=None).status == 200


# Over the wire ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(filled_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port and log of a real server where alice owns the contract's key pair."""
    directory = tmp_path_factory.mktemp("signed")
    shutil.copyfile(filled_template, directory / "publisher.db")
    settings = Settings(data_dir=directory)
    store = Store.open(settings)
    insert(store, Vault.from_file(settings.key_file), "alice")
    store.close()
    with real_server(directory) as process:
        yield process.port, process.log


def wire(port: int, target: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * PATIENCE)
    connection.request("GET", target, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.long
def test_real_server_verifies_signatures_and_does_not_log_them(server: tuple[int, Path]) -> None:
    port, log = server
    for base in ("/api/", "/api//"):
        # First the contract's own request, then requests that need a login, signed with the same key.
        assert wire(port, f"{base}status?apiKey={PUBLIC}&signature={quote_plus(CHECK)}") == 200
        assert wire(port, f"{base}status?apiKey={PUBLIC}&signature={quote_plus(CHECK[::-1])}") == 401
        assert wire(port, f"{base}status?x=1&apiKey={PUBLIC}&signature={quote_plus(CHECK)}") == 401
        for path in ("users/alice", "users/%61lice/roles", "users/alice/apikeys"):
            for query in (
                f"apiKey={PUBLIC}",
                f"apiKey={PUBLIC}&x=%2F%2b+",
                f"x=1&apiKey={PUBLIC}",
                f"x&apiKey={PUBLIC}&y=",
            ):
                text = f"{path}?{query}"
                made = quote_plus(signature(SECRET_KEY, text.encode()))
                assert wire(port, f"{base}{text}&signature={made}") == 200
                assert wire(port, f"{base}{text}&signature={quote_plus(CHECK)}") == 401
                assert wire(port, f"{base}{text}&signature={made}", Authorization=basic("bob", "wrong")) == 200
                assert made not in log.read_text()
    text = log.read_text()
    assert "signature=..." in text, "the request is logged"
    assert SECRET_KEY not in text


@pytest.mark.long
def test_contracts_check_value_signs_in_the_keys_owner(fresh: Service) -> None:
    """The intake accepts the contract's exact text and finds the key's user."""
    vault = Vault.from_file(fresh.settings.key_file)
    insert(fresh.store, vault, "alice")
    signed = f"apiKey={PUBLIC}&signature={quote_plus(CHECK)}".encode()
    authenticator = fresh.app.state.services.authenticator
    for path in (b"/api/status", b"/api//status"):
        assert authenticator.signer(path, signed).login == "alice"
    assert authenticator.signer(b"/api/status", b"a=1") is None
