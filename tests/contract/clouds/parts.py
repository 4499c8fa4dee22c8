"""The cloud that makes several objects of an image. It takes all image attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memory_cloud.parts import PARTS, PartsPublisher
from memory_cloud.parts_cloud import PROJECTS, PartsCloud
from publisher.core.settings import Settings
from publisher.core.ticket import Account, Target
from publisher.platforms.platform import Platform
from tests.contract.harness import Cloud, Harness, Obstacle
from workers.scratch import Scratch


class PartsHarness(Harness):
    @property
    def cloud(self) -> PartsCloud:
        return PartsCloud(Path(self.account.fields["login"]))

    @property
    def platform(self) -> Platform:
        return PARTS  # no entry point names it

    def content(self, cloud_id: str) -> bytes:
        return self.cloud.content(cloud_id)

    def attributes(self, cloud_id: str) -> Mapping[str, Any]:
        (image,) = [each for each in self.cloud.images() if each.snapshot == cloud_id]
        properties = {each["name"]: each["value"] for each in image.attributes.get("properties", ())}
        return {**image.attributes, "name": image.name, "properties": properties}


@contextmanager
def _parts(request: pytest.FixtureRequest) -> Iterator[Harness]:
    directory: Path = request.getfixturevalue("tmp_path")
    scratch = Scratch(Settings(data_dir=directory))
    account = Account("memory", {"login": str(directory / "cloud")}, {"password": "good"})
    target = Target("memory", {"displayName": "contract"})
    yield PartsHarness(PartsPublisher, account, target, scratch, partner=PROJECTS[0])
    scratch.close()


@contextmanager
def _little_room(harness: Harness) -> Iterator[None]:
    quota = Path(harness.account.fields["login"]) / "quota"
    quota.parent.mkdir(exist_ok=True)
    quota.write_text("1000")
    yield
    quota.unlink()


CLOUDS = [
    Cloud(
        "parts",
        _parts,
        {
            "unknown project": Obstacle("sharedWith", target={"sharedWith": ["nobody"]}),
            "unknown region": Obstacle("regions", target={"regions": ["moon"]}),
            "no right to make it public": Obstacle("visibility", target={"visibility": "public"}),
            "no room": Obstacle("quota", arranged=_little_room),
        },
    )
]
