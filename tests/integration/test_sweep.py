"""`publisher sweep` deletes the orphans in a real Glance, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from publisher.core.ticket import State
from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.records import put_back
from tests.servers.redis import RedisServer
from tests.stack import REPOSITORY, Stack

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"


def sweep(stack: Stack, *options: str, code: int = 0) -> dict[str, Any]:
    environment = os.environ | stack.settings.environment()
    command = [sys.executable, "-m", "publisher.cli.main", "sweep", "--json", *options]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def outcomes(told: dict[str, Any]) -> dict[str, str]:
    return {each["cloud_id"]: each["outcome"] for each in told["findings"]}


@pytest.mark.own_cloud
def test_image_of_a_failed_ticket_is_deleted_and_others_stay(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(1 << 20))
    # Without a grace period, any later sighting counts as the second one.
    with Stack.in_directory(tmp_path / "data", redis.url, sweep_grace_seconds=0.0, sweep_seconds=0.0) as stack:
        stack.add_image(file, id=7)
        kept = stack.publish(publish_body(devcloud, URI))
        lost = stack.publish(publish_body(devcloud, URI))
        for each in (kept, lost):
            assert stack.wait(each)["published"]
        (kept_image,), (lost_image,) = glance.images(kept), glance.images(lost)
        # As if the second ticket's worker had failed, and its clean-up, too.
        from publisher.store.database import tickets, writing

        sealed = stack.store.tickets.get(stack.publish(publish_body(devcloud, URI))["dbId"])
        assert sealed is not None
        with writing(stack.store.engine) as connection:
            connection.execute(
                tickets.update()
                .where(tickets.c.id == lost["dbId"])
                .values(state=State.FAILED, sealed_secrets=sealed.sealed_secrets)
            )
        put_back(stack.store, lost["dbId"], finished=60)
        # A snapshot of a server has all tags of the image from which it was booted, and so has a copy of a volume. The
        # sweeper knows that they are not ours. It cannot know that of an image that somebody tagged by hand.
        tags = {name: value for name, value in lost_image.items() if name.startswith("publisher_")}
        record = {"disk_format": "raw", "container_format": "bare", **tags}
        snapshot = glance.rest("POST", "/v2/images", {"name": "snapshot", "image_type": "snapshot", **record})["id"]
        copy_of_volume = glance.rest("POST", "/v2/images", {"name": "copy of a volume", **record})["id"]
        del record["publisher_cloud_id"]
        copy = glance.rest("POST", "/v2/images", {"name": "copy", **record})["id"]

        assert outcomes(sweep(stack, "--dry-run")) == {lost_image["id"]: "seen", copy: "unknown"}
        assert outcomes(sweep(stack)) == {lost_image["id"]: "seen", copy: "unknown"}
        assert outcomes(sweep(stack, "--dry-run")) == {lost_image["id"]: "due", copy: "unknown"}
        assert len(glance.images(lost)) == 4
        told = sweep(stack)
        assert outcomes(told) == {lost_image["id"]: "removed", copy: "unknown"}
        assert "password" not in json.dumps(told).lower()
        assert {image["id"] for image in glance.images()} >= {kept_image["id"], snapshot, copy_of_volume, copy}
        assert lost_image["id"] not in {image["id"] for image in glance.images()}

        devcloud.kill_glance()
        try:
            (finding,) = sweep(stack, code=1)["findings"]
            assert (finding["outcome"], finding["cloud_id"]) == ("failed", None)
            assert "Glance" in finding["error"]
            assert sweep(stack, "--dry-run", code=1)["findings"]
        finally:
            devcloud.start_glance()
