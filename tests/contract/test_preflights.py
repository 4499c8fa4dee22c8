"""Every plugin finds out at a preflight why its cloud would refuse an image, and creates nothing for that."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from publisher.core.errors import InvalidRequest, PermanentCloudError
from publisher.core.image import Image
from publisher.core.ticket import Target
from publisher.outbound.policy import EVERYWHERE
from tests.contract.harness import TIMEOUTS, Harness, Obstacle
from workers.clouds.base import CloudPublisher


def test_a_preflight_creates_nothing(harness: Harness, small: tuple[Image, Path]) -> None:
    record, _ = small
    cloud = harness.connect()
    cloud.check(record)
    cloud.check_creation(record)
    assert cloud.find(harness.ref) is None
    assert list(cloud.tagged(harness.ref.tags.deployment)) == []


@pytest.mark.long
def test_a_preflight_changes_nothing_beside_an_image(harness: Harness, small: tuple[Image, Path]) -> None:
    record, file = small
    harness.new_ticket(str(uuid.uuid4()))
    published = harness.publish(small)
    cloud = harness.connect()
    for _ in range(2):
        cloud.check(record)
        cloud.check_creation(record)
    assert harness.tagged() == {published.cloud_id}
    assert harness.content(published.cloud_id)[: record.size] == file.read_bytes()
    harness.clean_up()


@pytest.mark.long
def test_preflight_finds_what_the_cloud_refuses(
    obstructed: tuple[Harness, Obstacle], small: tuple[Image, Path]
) -> None:
    harness, obstacle = obstructed
    harness.new_ticket(str(uuid.uuid4()))
    record = replace(small[0], **obstacle.image)
    with pytest.raises((InvalidRequest, PermanentCloudError)) as refused:
        preflight(harness.connect(), record)
    said = f"{getattr(refused.value, 'field', None)}: {refused.value}"
    assert obstacle.says in said
    assert harness.journal.kept == {}
    assert harness.tagged() == set()


@pytest.mark.long
def test_attempt_at_what_the_cloud_refuses_leaves_nothing(
    obstructed: tuple[Harness, Obstacle], small: tuple[Image, Path]
) -> None:
    harness, obstacle = obstructed
    harness.new_ticket(str(uuid.uuid4()))
    record, file = replace(small[0], **obstacle.image), small[1]
    sent: list[int] = []
    with pytest.raises((InvalidRequest, PermanentCloudError)) as refused:
        harness.publish((record, file), on_sent=sent.append)
    assert obstacle.says in f"{getattr(refused.value, 'field', None)}: {refused.value}"
    assert sent == [], "it is refused before the first byte"
    harness.clean_up()
    assert harness.tagged() == set()


def preflight(cloud: CloudPublisher, record: Image) -> None:
    cloud.check(record)
    cloud.check_creation(record)


def test_an_account_is_explored_without_a_target(harness: Harness) -> None:
    plugin, account = harness.plugin, harness.account
    domain = {name: value for name, value in harness.target.fields.items() if name == "keystoneDomain"}
    found = plugin.explore(account, Target(account.platform, domain), TIMEOUTS, EVERYWHERE)
    project = harness.target.fields.get("keystoneProject") or harness.target.fields.get("tenantName")
    assert [each.name for each in found.projects] == ([project] if project else [])
    wrong = replace(account, secrets={"password": "wrong"})
    with pytest.raises(PermanentCloudError):
        plugin.explore(wrong, harness.target, TIMEOUTS, EVERYWHERE)
