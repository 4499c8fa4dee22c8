"""Disk files that a worker fetches, and images that an earlier version registered with fewer checks."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from unittest.mock import Mock

import pytest

from memory_cloud.publisher import CLOUD
from publisher.core.errors import InvalidRequest
from publisher.core.image import Image, ImageState
from publisher.core.settings import Settings
from publisher.core.ticket import State, Target
from publisher.core.vault import Vault
from publisher.files.hashing import digest
from publisher.store import Store
from tests import disks
from tests.disks import GIB
from tests.image_cases import ACCEPTED_ON_THE_WAY_IN, CASES, REFUSED, ImageCase
from tests.records import APPLIANCE, OWNER, add_owner, add_ticket, current
from tests.unit.workers.registration.origin import Origin, begin, files, now, start
from workers.clouds.openstack.facts import CloudFacts
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.clouds.openstack.session import ImageService, Reach
from workers.registration import Registrar
from workers.runner import Runner


def source_of(case: ImageCase, settings: Settings, origin: Origin, by_url: bool) -> str:
    """Provide the file and return its source: a URL, or a path under the image root."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start(handler, 200, **{"Content-Length": str(len(case.content))})
        handler.wfile.write(case.content)

    origin.answers[f"/{case.name}"] = answer
    if by_url:
        return origin.url(f"/{case.name}")
    (settings.images / case.name).write_bytes(case.content)
    return case.name


SOURCES = pytest.mark.parametrize("by_url", [True, False], ids=["from a URL", "under the image root"])


@SOURCES
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_file_that_is_refused_leaves_nothing(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, case: ImageCase, by_url: bool
) -> None:
    id = begin(sqlite_store, source_of(case, settings, origin, by_url))
    before = files(settings)
    assert registrar.run(id) is ImageState.FAILED
    image = now(sqlite_store, id)
    assert all(part in str(image.error) for part in case.refused), image.error
    assert image.attempt == 1
    assert files(settings) == before


@SOURCES
@pytest.mark.parametrize("case", ACCEPTED_ON_THE_WAY_IN, ids=lambda case: case.name)
def test_a_file_is_registered_with_its_format_and_size(
    registrar: Registrar, sqlite_store: Store, settings: Settings, origin: Origin, case: ImageCase, by_url: bool
) -> None:
    id = begin(sqlite_store, source_of(case, settings, origin, by_url))
    assert registrar.run(id) is ImageState.READY
    image = now(sqlite_store, id)
    assert (image.disk_format, image.virtual_size) == (case.disk_format, case.virtual_size)


def add_as_before(store: Store, root: Path, content: bytes, disk_format: str, name: str) -> Image:
    """Add an image as earlier versions did, which examined only the first bytes."""
    add_owner(store)
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    known = digest(root / name)
    return store.images.add(
        owner=OWNER, appliance_id=APPLIANCE, name="old", format=disk_format, disk_format=disk_format,
        virtual_size=known.size, digests=known, location=name,
    )  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_old_image_whose_file_is_now_refused_is_not_uploaded(
    sqlite_store: Store, settings: Settings, case: ImageCase
) -> None:
    disk_format = case.name.rpartition(".")[2].replace("ova", "raw")
    wanted = {"vmdk": "openstackvmdk"}.get(disk_format, disk_format)
    image = add_as_before(sqlite_store, settings.images, case.content, wanted, case.name)
    vault = Vault.from_file(settings.key_file)
    ticket = add_ticket(
        sqlite_store, image_id=image.id, image_size=image.size, sealed_secrets=vault.seal({"password": "secret"})
    )
    before = dict(CLOUD.images)
    assert Runner(sqlite_store, vault, settings, worker="new").run(ticket.id) is State.FAILED
    assert CLOUD.images == before
    failed = current(sqlite_store, ticket)
    assert failed.attempt == 1
    assert all(part in str(failed.error) for part in case.refused), failed.error


def openstack(target: Target) -> OpenStackPublisher:
    return OpenStackPublisher(Mock(), Mock(spec=ImageService), target, Mock(spec=Reach))


def test_image_that_glance_would_refuse_is_refused_before_its_upload(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add_as_before(sqlite_store, tmp_path / "images", disks.vhd_fixed(), "vhd", "win.vhd")
    found = sqlite_store.images.get(image.id)
    assert found
    cloud = openstack(Target("openstack", {}))
    monkeypatch.setattr(CloudFacts, "usage", lambda self: {})
    cloud.check(found)
    objecting = Image(
        **{name: getattr(found, name) for name in found.__slots__} | {"glance_objection": "no; convert it"}
    )
    with pytest.raises(InvalidRequest, match="imageUri: no; convert it"):
        cloud.check(objecting)


@pytest.mark.parametrize(
    ("content", "name", "min_disk"),
    [
        (disks.vhd_dynamic(40 * GIB), "big.vhd", 40),
        (disks.vdi(7 * GIB), "d.vdi", 7),
        (disks.vmdk(5 * GIB + 512 * 128), "d.vmdk", 6),
        (disks.qcow2(20 * GIB), "d.qcow2", 20),
        (disks.iso(), "d.iso", 0),
        (next(case.content for case in CASES if case.name == "big.vhd"), "big.vhd", 41),
    ],
    ids=["vhd", "vdi", "vmdk", "qcow2", "iso", "vhd of whole cylinders"],
)
def test_min_disk_is_rounded_up_to_gib(
    registrar: Registrar, sqlite_store: Store, settings: Settings, content: bytes, name: str, min_disk: int
) -> None:
    """Nova compares `min_disk`, in GiB, with the disk of a flavor."""
    (settings.images / name).write_bytes(content)
    id = begin(sqlite_store, name)
    assert registrar.run(id) is ImageState.READY
    cloud = openstack(Target("openstack", {"displayName": "x"}))
    assert cloud._properties("1", now(sqlite_store, id), Mock())["min_disk"] == min_disk
