"""A Glance that reports no hash of an uploaded image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from publisher.core.settings import Settings
from publisher.core.ticket import State
from publisher.core.vault import Vault
from publisher.devcloud.cloud import DevCloud
from publisher.store import Store
from tests.clouds import Glance
from tests.records import add_image, add_ticket, current, words
from tests.servers.hashless import hashless
from workers.runner import Runner

pytestmark = pytest.mark.real


def test_an_image_without_a_cloud_hash_is_published_with_a_warning(
    sqlite_store: Store, tmp_path: Path, devcloud: DevCloud
) -> None:
    settings = Settings(data_dir=tmp_path, progress_seconds=0.02)
    vault = Vault.from_file(settings.key_file)
    content = os.urandom(3 << 20)
    image = add_image(sqlite_store, settings.images, content)
    env = devcloud.env()
    with hashless(devcloud.glance_url) as glance_url:
        ticket = add_ticket(
            sqlite_store,
            image_size=image.size,
            platform="openstack",
            account={"keystoneUrl": devcloud.keystone_url, "glanceUrl": glance_url, "login": env["OS_USERNAME"]},
            sealed_secrets=vault.seal({"password": env["OS_PASSWORD"]}),
            target={
                "keystoneDomain": env["OS_PROJECT_DOMAIN_NAME"],
                "keystoneProject": env["OS_PROJECT_NAME"],
                "displayName": "of no hash",
            },
        )
        assert Runner(sqlite_store, vault, settings, worker="w").run(ticket.id) is State.PUBLISHED
    published = current(sqlite_store, ticket)
    assert published.cloud_id
    glance = Glance(devcloud)
    assert glance.data(published.cloud_id) == content
    glance.delete(published.cloud_id)
    assert words(sqlite_store, ticket)[-3:] == [
        "The cloud verified nothing: it reports no hash. Its size is right, and what was sent is what was registered",
        "Finishing",
        "Published",
    ]
