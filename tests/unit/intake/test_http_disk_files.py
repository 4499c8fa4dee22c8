"""Disk files sent over the API are registered with the right size or refused with a reason, never with a 5xx."""

from __future__ import annotations

import json
import os

import pytest
from sqlalchemy import update

from publisher.store.database import images, writing
from tests import disks
from tests.image_cases import ACCEPTED_ON_THE_WAY_IN, REFUSED, ImageCase, mutated
from tests.service import JSON, XML, Answer, Service, json_body

ALICE = "users/alice/appliances/14/images"
BYTES = "application/octet-stream"
MUTATED = range(500 if os.environ.get("FULL") else 100)


def send(service: Service, case: ImageCase) -> list[Answer]:
    """Send the file twice, once for each format of the answer."""
    path = f"{ALICE}?fileName={case.name}"
    return [
        service.post(path, case.content, content_type=BYTES, login="alice", accept=accept) for accept in (XML, JSON)
    ]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_file_leaves_nothing(fresh: Service, case: ImageCase) -> None:
    before = fresh.store.images.list()
    for answer in send(fresh, case):
        assert answer.status == 400
        assert all(part in answer.problem() for part in case.refused), answer.problem()
    assert fresh.store.images.list() == before
    assert [each for each in fresh.settings.images.rglob("*") if each.is_file()] == []


@pytest.mark.parametrize("case", ACCEPTED_ON_THE_WAY_IN, ids=lambda case: case.name)
def test_a_file_is_registered_with_its_format_and_size(fresh: Service, case: ImageCase) -> None:
    for answer in send(fresh, case):
        assert answer.status == 201, answer.body
    found = fresh.store.images.list()[-1]
    assert (found.disk_format, found.virtual_size) == (case.disk_format, case.virtual_size)


@pytest.mark.long
def test_mutated_disk_header_gets_201_or_400(service: Service) -> None:
    for seed in MUTATED:
        answer = service.post(f"{ALICE}?name=m", mutated(seed), content_type=BYTES, login="alice", accept=JSON)
        assert answer.status in (201, 400), (seed, answer.body)


def test_warning_is_shown_only_in_json(fresh: Service) -> None:
    sent = fresh.post(f"{ALICE}?name=odd&format=raw", b"eleven byte", content_type=BYTES, login="alice", accept=JSON)
    assert sent.status == 201, sent.body
    assert sent.json["warning"].startswith("No partition table, boot sector or file system was found")
    assert fresh.get(sent.json["uri"], login="alice", accept=JSON).json["warning"] == sent.json["warning"]
    assert b"warning" not in fresh.get(sent.json["uri"], login="alice", accept=XML).body
    good = fresh.post(f"{ALICE}?name=good", disks.raw(), content_type=BYTES, login="alice", accept=JSON)
    assert "warning" not in good.json


def test_image_that_glance_would_refuse_is_refused_at_once(fresh: Service) -> None:
    sent = fresh.post(f"{ALICE}?fileName=win.vhd", disks.vhd_fixed(), content_type=BYTES, login="alice", accept=JSON)
    assert sent.status == 201, sent.body
    image = sent.json["dbId"]
    path = "users/alice/appliances/14/pimages"
    body = json.loads(json_body(image=None)) | {"imageUri": sent.json["uri"]}
    answer = fresh.post(path, json.dumps(body), content_type=JSON, login="alice")
    assert answer.status == 400, answer.body
    assert answer.problem().startswith(
        f"imageUri: image {image} (win) cannot be published to openstack: Glance does not"
    )
    assert "`qemu-img convert -f vpc -O qcow2 win.vhd disk.qcow2`" in answer.problem()
    assert fresh.store.tickets.list() == []
    # Another cloud has other rules.
    elsewhere = {"imageUri": sent.json["uri"], "credAccount": {"targetPlatform": {"name": "memory"}, "login": "x"}}
    assert fresh.post(path, json.dumps(elsewhere), content_type=JSON, login="alice").status == 201
    with writing(fresh.store.engine) as connection:
        connection.execute(update(images).where(images.c.id == image).values(glance_objection=None))
    assert fresh.post(path, json.dumps(body), content_type=JSON, login="alice").status == 201
