"""Measure what the checks before the first byte add to an attempt whose sign-in is kept: time and requests."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import requests
from rich.table import Table

from publisher.core.image import Image
from publisher.core.ticket import Account, Target
from publisher.files.hashing import digest
from publisher.outbound.policy import EVERYWHERE
from publisher.platforms.platform import platform_of
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher

LIMIT_SECONDS = 0.1
_AT_THE_POST = "preflight at the POST"


@dataclass(frozen=True)
class Measured:
    """Seconds of each run, and the number of requests to the cloud of the first and of the last one."""

    seconds: list[float]
    first_requests: int
    requests: int


def measure(body: Mapping[str, Any], file: Path, runs: int) -> dict[str, Measured]:
    """Make the checks of a publish request as a worker makes them. `body` is the request, `file` its image."""
    account_fields, secrets = platform_of("openstack").account_parts(body["credAccount"])
    account = Account("openstack", account_fields, secrets)
    usual = {name: body[name] for name in ("keystoneDomain", "keystoneProject", "displayName")}
    named = usual | {"ifNameTaken": "refuse"}
    targets = {
        "preflight of an attempt": usual,
        "… with ifNameTaken": named,
        "… with store and sharedWith, too": named | {"store": "fs", "sharedWith": [body["keystoneProject"]]},
        _AT_THE_POST: usual,
    }
    image = _image(file)
    return {
        name: _measured(account, Target("openstack", target), image, runs, at_the_post=name == _AT_THE_POST)
        for name, target in targets.items()
    }


def table(measured: Mapping[str, Measured]) -> Table:
    title = f"Checks before the first byte, sign-in kept; at most {LIMIT_SECONDS} s for an attempt"
    made = Table("checks", "s", "from … to", "requests, first time", "requests", title=title)
    for name, each in measured.items():
        made.add_row(
            name,
            f"{statistics.median(each.seconds):.3f}",
            f"{min(each.seconds):.3f} … {max(each.seconds):.3f}",
            str(each.first_requests),
            str(each.requests),
        )
    return made


def _measured(account: Account, target: Target, image: Image, runs: int, *, at_the_post: bool) -> Measured:
    seconds: list[float] = []
    counts: list[int] = []
    send = requests.Session.send
    sent: list[str] = []

    def counted(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        sent.append(str(request.url))
        return send(session, request, **more)

    with patch.object(requests.Session, "send", counted):
        for _ in range(runs + 1):
            cloud = OpenStackPublisher.connect(account, target, Timeouts(), EVERYWHERE)
            sent.clear()
            began = time.perf_counter()
            cloud.check(image)
            if at_the_post:
                cloud.check_creation(image)
            seconds.append(time.perf_counter() - began)
            counts.append(len(sent))
            cloud.keep_sign_in()
            cloud.close()
    # The first run signs in, and asks what is then known for the sign-in.
    return Measured(seconds[1:], counts[0], counts[-1])


def _image(file: Path) -> Image:
    known, size = digest(file), file.stat().st_size
    hashes = known.md5, known.sha256, known.sha512
    return Image(1, "root", 4, "bench", "raw", "raw", size, size, *hashes, location=file.name, created=0.0)
