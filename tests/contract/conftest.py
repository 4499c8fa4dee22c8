"""The clouds that each test of a plugin runs with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from publisher.core.image import Image
from tests.contract.clouds import every_cloud
from tests.contract.harness import Harness, Obstacle, record_of
from tests.devcloud_venv import devcloud_venv
from tests.glance_behind_v2 import GlanceBehindV2

SIZE = 24 << 20
"""Bytes: more than the sockets on the way hold, so that an upload can be stopped half-way."""


@pytest.fixture(scope="session")
def glance_v2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlanceBehindV2]:
    directory = tmp_path_factory.mktemp("glance-v2")
    with GlanceBehindV2(directory, devcloud_venv(), users={"joe": "good"}, tenants={"lab"}) as cloud:
        yield cloud


def clouds(*, each_sign_in: bool = False) -> list[ParameterSet]:
    """Return the parameters of a fixture that opens clouds."""
    return [
        pytest.param(each, id=each.name, marks=each.marks)
        for each in every_cloud()
        if each_sign_in or not each.other_sign_in
    ]


@pytest.fixture(params=clouds())
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with request.param.open(request) as harness:
        yield harness


@pytest.fixture(
    params=[
        pytest.param((cloud, obstacle), id=f"{cloud.name}, {name}", marks=cloud.marks)
        for cloud in every_cloud()
        for name, obstacle in cloud.obstacles.items()
    ]
)
def obstructed(request: pytest.FixtureRequest) -> Iterator[tuple[Harness, Obstacle]]:
    """A cloud that refuses an image, and why."""
    cloud, obstacle = request.param
    with cloud.open(request) as harness, obstacle.arranged(harness):
        harness.want(**obstacle.target)
        yield harness, obstacle


@pytest.fixture
def image(tmp_path: Path) -> tuple[Image, Path]:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(SIZE))
    return record_of(file), file


@pytest.fixture
def small(tmp_path: Path) -> tuple[Image, Path]:
    """An image for what happens before or after its transfer."""
    file = tmp_path / "small.raw"
    file.write_bytes(os.urandom(1 << 20))
    return record_of(file), file
