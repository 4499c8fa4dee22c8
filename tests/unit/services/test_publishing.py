"""A publish request is checked and committed, and only then is a worker woken."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from publisher.core.asking import alone
from publisher.core.errors import InvalidRequest, QueueUnavailable
from publisher.core.image import Image
from publisher.core.ticket import Phase, State, Ticket
from publisher.core.vault import Vault
from publisher.outbound.policy import EVERYWHERE, OutboundPolicy
from publisher.platforms.platform import platform_of
from publisher.services import publishing
from publisher.services.publishing import PublishRequest, publish
from publisher.services.wakeups import Wakeups
from publisher.store import Store
from tests.records import APPLIANCE, OWNER, add_image, add_owner, put_back, remove_image

TEMPLATE = "{name}-{version}-{date}"


@pytest.fixture
def image(sqlite_store: Store, tmp_path: Path) -> Image:
    add_owner(sqlite_store)
    return add_image(sqlite_store, tmp_path / "root", b"content")


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.from_file(tmp_path / "key")


class Broker:
    """A waker that can be unavailable."""

    def __init__(self) -> None:
        self.away = False
        self.sent: list[int] = []

    def send(self, *ticket_ids: int) -> None:
        if self.away:
            raise QueueUnavailable("the message broker cannot be reached: Connection refused")
        self.sent.extend(ticket_ids)

    def send_image(self, *image_ids: int) -> None:
        raise NotImplementedError

    def send_check(self, *check_ids: int) -> None:
        raise NotImplementedError


def accept(store: Store, vault: Vault, request: PublishRequest, *, policy: OutboundPolicy) -> Ticket:
    """Publish and return the ticket, without waking a worker."""
    return alone(publish(store, vault, lambda: request, policy=policy, wake=lambda id: None)).ticket


def test_a_platform_that_cannot_hide_or_rename_images_refuses_that(
    sqlite_store: Store, vault: Vault, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "platform_of", lambda name: replace(platform_of(name), older=frozenset({"hide"})))
    wanted = request(image, lineage="web", older="rename")
    said = "older: 'memory' cannot rename older images; use leave, hide or withdraw"
    with pytest.raises(InvalidRequest, match=said):
        accept(sqlite_store, vault, wanted, policy=EVERYWHERE)
    assert sqlite_store.tickets.list() == []


def request(image: Image, **values: object) -> PublishRequest:
    plain: dict[str, object] = {
        "owner": OWNER,
        "appliance_id": APPLIANCE,
        "image_id": image.id,
        "platform": "memory",
        "account": {"login": "me"},
        "secrets": {"password": "hunter2"},
        "target": {"displayName": "web"},
    }
    return PublishRequest(**(plain | values))  # type: ignore[arg-type]


def test_an_accepted_request_becomes_a_queued_ticket(sqlite_store: Store, vault: Vault, image: Image) -> None:
    ticket = accept(sqlite_store, vault, request(image), policy=EVERYWHERE)
    assert sqlite_store.tickets.get(ticket.id) == ticket
    assert (ticket.state, ticket.phase, ticket.attempt, ticket.name) == (State.QUEUED, Phase.WAITING, 0, "web")
    assert (ticket.progress.sent, ticket.progress.total) == (0, image.size)
    assert ticket.sealed_secrets is not None
    assert vault.open(ticket.sealed_secrets) == {"password": "hunter2"}
    assert ticket.account == {"login": "me"}


def test_no_secret_is_in_the_database(sqlite_store: Store, vault: Vault, image: Image, tmp_path: Path) -> None:
    accept(sqlite_store, vault, request(image), policy=EVERYWHERE)
    sqlite_store.close()
    for file in tmp_path.glob("publisher.db*"):
        assert b"hunter2" not in file.read_bytes()


def test_without_a_name_a_ticket_has_the_name_of_its_image(sqlite_store: Store, vault: Vault, image: Image) -> None:
    ticket = accept(sqlite_store, vault, request(image, target={}), policy=EVERYWHERE)
    assert ticket.name == image.name
    assert ticket.target == {"displayName": image.name}


@pytest.mark.parametrize(
    ("target", "account"),
    [
        ({"nameTemplate": TEMPLATE}, {}),
        ({}, {"nameTemplate": TEMPLATE}),
        ({"nameTemplate": TEMPLATE}, {"nameTemplate": "x"}),
    ],
)
def test_a_template_makes_the_name(
    sqlite_store: Store, vault: Vault, image: Image, target: dict[str, str], account: dict[str, str]
) -> None:
    before = datetime.now(UTC)
    ticket = accept(sqlite_store, vault, request(image, target=target, account=account), policy=EVERYWHERE)
    days = {f"{moment:%Y-%m-%d}" for moment in (before, datetime.now(UTC))}
    assert ticket.name in {f"disk-1-{day}" for day in days}
    assert ticket.target == {"displayName": ticket.name}


def test_a_name_in_the_request_comes_before_the_template_of_the_account(
    sqlite_store: Store, vault: Vault, image: Image
) -> None:
    asked = request(image, account={"nameTemplate": "{name} {id} {revision} {appliance} {time}"})
    assert accept(sqlite_store, vault, asked, policy=EVERYWHERE).name == "web"


@pytest.mark.parametrize("field", ["nameTemplate", "credAccount.nameTemplate"])
def test_a_name_that_a_template_makes_must_be_acceptable(
    sqlite_store: Store, vault: Vault, image: Image, field: str
) -> None:
    template = {"nameTemplate": "x" * 252 + "{name}"}
    target, account = (template, {}) if field == "nameTemplate" else ({}, template)
    with pytest.raises(InvalidRequest, match=f"^{field}: makes a name that is longer than 255 characters") as raised:
        accept(sqlite_store, vault, request(image, target=target, account=account), policy=EVERYWHERE)
    assert raised.value.field == field
    assert sqlite_store.tickets.list() == []


def test_a_minimum_disk_smaller_than_the_image_creates_no_ticket(
    sqlite_store: Store, vault: Vault, image: Image, tmp_path: Path
) -> None:
    account = {"keystoneUrl": "https://192.0.2.1:5000", "login": "me"}
    asked = request(image, platform="openstack", account=account, target={"minDisk": 0})
    with pytest.raises(InvalidRequest, match="minDisk: 0 GiB are too little: the disk of the image has 1 GiB"):
        accept(sqlite_store, vault, asked, policy=EVERYWHERE)
    assert sqlite_store.tickets.list() == []
    asked = replace(asked, target={"minDisk": 1, "tags": ["a"]})
    assert accept(sqlite_store, vault, asked, policy=EVERYWHERE).target["tags"] == ["a"]


def test_each_ticket_has_its_own_uid(sqlite_store: Store, vault: Vault, image: Image) -> None:
    assert len({accept(sqlite_store, vault, request(image), policy=EVERYWHERE).uid for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"image_id": 99}, "imageUri"),
        ({"owner": "guest"}, "imageUri"),
        ({"appliance_id": 5}, "imageUri"),
        ({"platform": "nimbus"}, "credAccount.targetPlatform.name"),
        ({"platform": "openstack"}, "credAccount.keystoneUrl"),
        ({"target": {"displayName": "x" * 256}}, "displayName"),
    ],
)
def test_an_invalid_request_creates_no_ticket(
    sqlite_store: Store, vault: Vault, image: Image, values: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        accept(sqlite_store, vault, request(image, **values), policy=EVERYWHERE)
    assert raised.value.field == field
    assert sqlite_store.tickets.list() == []


def test_another_users_image_looks_like_a_missing_one(sqlite_store: Store, vault: Vault, image: Image) -> None:
    with pytest.raises(InvalidRequest) as anothers:
        accept(sqlite_store, vault, request(image, owner="guest"), policy=EVERYWHERE)
    remove_image(sqlite_store, image.id)
    with pytest.raises(InvalidRequest) as none:
        accept(sqlite_store, vault, request(image, owner="guest"), policy=EVERYWHERE)
    assert str(anothers.value) == str(none.value)


def test_wakeup_is_sent_and_ticket_is_no_longer_due(sqlite_store: Store, vault: Vault, image: Image) -> None:
    broker = Broker()
    ticket = accept(sqlite_store, vault, request(image), policy=EVERYWHERE)
    assert alone(Wakeups(sqlite_store, broker).ticket(ticket.id))
    assert broker.sent == [ticket.id]
    assert sqlite_store.tickets.due() == []


def test_without_a_broker_the_ticket_is_kept_and_woken_later(
    sqlite_store: Store, vault: Vault, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()
    broker.away = True
    ticket = accept(sqlite_store, vault, request(image), policy=EVERYWHERE)
    with caplog.at_level(logging.WARNING):
        assert not alone(Wakeups(sqlite_store, broker).ticket(ticket.id))
    assert f"ticket {ticket.id} was accepted, but no worker was woken" in caplog.text
    assert sqlite_store.tickets.get(ticket.id) is not None
    assert sqlite_store.tickets.due() == [ticket.id]


def test_a_ticket_with_a_lost_message_becomes_due(sqlite_store: Store, vault: Vault, image: Image) -> None:
    ticket = accept(sqlite_store, vault, request(image), policy=EVERYWHERE)
    alone(Wakeups(sqlite_store, Broker()).ticket(ticket.id))
    put_back(sqlite_store, ticket, wake_at=0.001)
    assert sqlite_store.tickets.due() == [ticket.id]


def test_repr_of_a_request_contains_no_secret(image: Image) -> None:
    assert "hunter2" not in repr(request(image))
