"""Requests with addresses that the installation does not connect to, and accounts with CA bundles."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from publisher.outbound import policy
from publisher.web.threads import Threads
from tests.patience import PATIENCE
from tests.servers.certificates import Authority, authority
from tests.servers.listening import Listening, listening
from tests.service import ACCOUNT, JSON, XML, Answer, Service, image_uri, json_body, xml_body

PATH = "users/root/appliances/4/pimages"
OUTSIDE = {"account__keystoneUrl": "https://8.8.8.8:5000", "account__glanceUrl": None}


@pytest.fixture
def guarded(start: Callable[..., Service]) -> Service:
    return start(production=True, location_hosts="*")


@pytest.fixture
def inner() -> Iterator[Listening]:
    """A listening server. The test fails if anybody connects to it."""
    with listening() as server:
        yield server
    assert server.connections == []


def publish(service: Service, **changes: Any) -> Answer:
    return service.post(PATH, json_body(**(OUTSIDE | changes)), content_type=JSON, accept=JSON)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("169.254.169.254", "'169.254.169.254' is a metadata address"),
        ("[::1]:5432", "'::1' is a loopback address"),
        ("127.0.0.1:{port}", "'127.0.0.1' is a loopback address"),
        ("localhost:{port}", "'localhost' resolves to a loopback address"),
        ("2130706433:{port}", "'2130706433' resolves to a loopback address"),
        ("0x7f000001:{port}", "'0x7f000001' resolves to a loopback address"),
        ("0177.0.0.1:{port}", "'0177.0.0.1' resolves to a loopback address"),
        ("127.1:{port}", "'127.1' resolves to a loopback address"),
        ("[::ffff:127.0.0.1]:{port}", "'::ffff:127.0.0.1' is a loopback address"),
        ("[fe80::1]", "'fe80::1' is a link-local address"),
        ("0.0.0.0:{port}", "'0.0.0.0' is an unspecified address"),
    ],
)
def test_internal_address_is_refused_and_its_kind_is_named(
    guarded: Service, inner: Listening, host: str, kind: str
) -> None:
    url = f"http://{host.format(port=inner.port)}/"
    for field in ("keystoneUrl", "glanceUrl"):
        answer = publish(guarded, **{f"account__{field}": url})
        assert answer.status == 400, answer.body
        assert answer.problem().startswith(
            f"credAccount.{field}: {kind}, which this installation does not connect to; "
        )
        stored = {**ACCOUNT, "keystoneUrl": "https://8.8.8.8", "glanceUrl": None, field: url, "name": "lab"}
        answer = guarded.post("users/root/accounts", json.dumps(stored), content_type=JSON)
        assert (answer.status, answer.problem().partition(":")[0]) == (400, field)
    image = json.dumps({"location": f"{url}disk.raw"})
    answer = guarded.post("users/root/appliances/4/images", image, content_type=JSON)
    assert (answer.status, answer.problem().partition(":")[0]) == (400, "location")
    assert guarded.store.tickets.list() == []
    assert guarded.store.accounts.list() == []
    assert guarded.waker.images == []


def test_address_of_a_stored_account_is_checked_again(start: Callable[..., Service]) -> None:
    """The account may be older than the policy."""
    service = start(outbound_deny="127.0.0.0/8")
    made = service.store.accounts.add(
        owner="root", name="lab", platform="openstack", fields={"keystoneUrl": "http://localhost", "login": "x"},
        sealed_secrets=b"sealed",
    )  # fmt: skip
    account = {"@type": "CredAccountOpenStack", "dbId": made.id}
    body = json.dumps({"imageUri": image_uri(7), "credAccount": account})
    answer = service.post(PATH, body, content_type=JSON)
    assert answer.status == 400
    assert answer.problem() == (
        "credAccount.keystoneUrl: 'localhost' resolves to an address that PUBLISHER_OUTBOUND_DENY denies, which this"
        " installation does not connect to"
    )


def test_allowed_and_unresolvable_addresses_are_accepted(start: Callable[..., Service]) -> None:
    service = start(production=True, outbound_allow="127.0.0.0/8, ::1")
    for url in ("http://localhost:5000", "https://10.0.0.7:5000", "https://no-such-name.invalid", "https://a..b"):
        assert publish(service, account__keystoneUrl=url).status == 201, url


def test_addresses_are_not_resolved_outside_production(fresh: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(*_: Any, **__: Any) -> None:
        raise AssertionError("resolved")

    monkeypatch.setattr(policy, "_look_up", resolved)
    assert publish(fresh, account__keystoneUrl="http://localhost:5000").status == 201


@pytest.mark.long
def test_silent_resolver_delays_a_request_only_briefly(guarded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    released, resolve = threading.Event(), socket.getaddrinfo

    def slow(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".example.com") and not options.get("flags"):
            released.wait(30 * PATIENCE)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    answer = publish(guarded, account__keystoneUrl="https://a.example.com", account__glanceUrl="https://b.example.com")
    took = time.monotonic() - began
    assert answer.status == 201
    assert 0.4 < took < 5.0 * PATIENCE
    # Each lookup holds a thread until it ends. If there are too many, no further name is looked up.
    for number in range(20):
        began = time.monotonic()
        monkeypatch.setattr(policy, "_LOOK_SECONDS", 0.01)
        assert publish(guarded, account__keystoneUrl=f"https://{number}.example.com").status == 201
    assert sum(thread.name == "lookup" for thread in threading.enumerate()) <= policy._LOOKUPS_MAX
    released.set()


def test_a_host_is_looked_up_once_and_its_requests_wait_for_nobody(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request waits in a thread of its own, and counts once for its user although it begins twice."""
    looked_up: list[str] = []
    waited: list[str] = []
    resolve, run = socket.getaddrinfo, Threads.run

    def note(host: str, *arguments: Any, **options: Any) -> Any:
        if options.get("flags"):
            return resolve(host, *arguments, **options)
        looked_up.append(host)
        return resolve("127.0.0.1", *arguments, **options)

    def note_run(threads: Threads, *arguments: Any) -> Any:
        waited.append(threads._name)
        return run(threads, *arguments)

    service = start(outbound_deny="203.0.113.0/24", user_requests_per_second=1.0)
    assert publish(service, account__keystoneUrl="https://127.0.0.1").status == 201  # hashes the password, too
    monkeypatch.setattr(socket, "getaddrinfo", note)
    monkeypatch.setattr(Threads, "run", note_run)
    for _ in range(9):
        assert publish(service, account__keystoneUrl="https://cloud.example.com").status == 201
    assert looked_up == ["cloud.example.com"]
    assert waited in (["writer"], [])


# Bundles --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("form", [JSON, XML])
def test_bundle_is_kept_and_never_shown(fresh: Service, ours: Authority, form: str) -> None:
    write = json_body if form == JSON else xml_body
    body = write(account__caBundle=ours.pem * 2)
    for accept in (JSON, XML):
        made = fresh.post(PATH, body, content_type=form, accept=accept)
        assert made.status == 201, made.body
        assert b"caBundle" not in made.body
        assert b"CERTIFICATE" not in made.body
    for ticket in fresh.store.tickets.list():
        assert ticket.account["caBundle"].split() == (ours.pem * 2).split()


def test_bundle_of_a_stored_account_goes_into_its_tickets(fresh: Service, ours: Authority) -> None:
    stored = {**ACCOUNT, "caBundle": ours.pem, "name": "lab"}
    made = fresh.post("users/root/accounts", json.dumps(stored), content_type=JSON, accept=JSON).json
    assert "caBundle" not in made
    # Clients send the account back without the bundle, which must not be lost.
    changed = fresh.call("PUT", made["uri"], body=json.dumps(made).encode(), content_type=JSON, accept=JSON)
    assert changed.status == 200
    body = json.dumps({"imageUri": image_uri(7), "credAccount": made})
    assert fresh.post(PATH, body, content_type=JSON).status == 201
    (ticket,) = fresh.store.tickets.list()
    assert ticket.account["caBundle"] == ours.pem


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        ("nonsense", "holds no certificates that can be read"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds no certificates that can be read"),
        ("{pem}-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds no certificates that can be"),
        ("{pem}ä", "holds no certificates that can be read"),
        ("{pem}{key}", "holds a private key; give certificates only"),
        ("{pem}" + " " * 65536, "characters are too many; at most 65536"),
    ],
)
def test_invalid_bundle_is_refused(fresh: Service, ours: Authority, bundle: str, words: str) -> None:
    text = bundle.format(pem=ours.pem, key=ours.key)
    answer = publish(fresh, account__caBundle=text)
    assert answer.status == 400
    assert answer.problem().startswith("credAccount.caBundle: ")
    assert words in answer.problem()
    stored = fresh.post("users/root/accounts", json.dumps({**ACCOUNT, "caBundle": text}), content_type=JSON)
    assert stored.status == 400
    assert stored.problem().startswith("caBundle: ")
    assert fresh.store.tickets.list() == []
