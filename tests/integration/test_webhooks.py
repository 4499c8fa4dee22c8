"""A running service sends webhooks, and a receiver verifies them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.servers.receiver import receiver
from tests.servers.redis import RedisServer
from tests.stack import Stack, until

pytestmark = pytest.mark.real


def publish(stack: Stack, login: str, notify: str) -> dict[str, Any]:
    account = {"@type": "CredAccountMemory", "login": login, "password": "hunter2"}
    body = {"imageUri": "users/root/appliances/4/images/7", "credAccount": account, "notify": notify}
    return stack.publish(body)


def test_webhooks_arrive_despite_a_failing_receiver_and_a_dead_worker(redis: RedisServer, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"a disk" * 100_000)
    quick = Stack.in_directory(
        tmp_path / "data", redis.url, workers=1, notify_retry_seconds="0,0,0,0", notify_timeout_seconds=1.0
    )
    with receiver(statuses=[500, 503]) as hooks, quick as stack:
        stack.add_image(disk, id=7)
        made = stack.call("PUT", "users/root/webhook", b"{}", content_type="application/json")
        assert made.status == 200, made.body
        secret = made.json["secret"]

        failed = publish(stack, "refuse", hooks.url)
        until(lambda: len(hooks.got) == 3, 30, stack._explain)
        assert len(set(hooks.ids)) == 1
        history = _history(stack, failed["dbId"])
        assert [each for each in history if "127.0.0.1" in each][-1].endswith("try 3): it answered 204")

        # The worker dies when the receiver has the message but has not answered.
        hooks.going.clear()
        published = publish(stack, "anybody", hooks.url)
        until(lambda: len(hooks.got) == 4, 30, stack._explain)
        stack.workers[0].kill()
        hooks.going.set()
        stack.add_worker()
        until(lambda: "sent" in [each.state for each in stack.store.notifications.list(published["dbId"])], 60)

        told = hooks.verified(secret)
        numbers = [(each["type"], each["data"]["ticket"]) for each in told]
        assert numbers[:3] == [("publication.failed", failed["dbId"])] * 3
        assert set(numbers[3:]) == {("publication.published", published["dbId"])}
        assert len(numbers) >= 5
        assert len(set(hooks.ids)) == 2

        assert secret.encode() not in (tmp_path / "data" / "publisher.db").read_bytes()
        logs = "".join(log.read_text() for log in stack.logs.glob("*.log"))
        shown = "\n".join([logs, *_history(stack, failed["dbId"]), json.dumps(stack.status(published))])
        for hidden in (secret, "a-secret-of-the-path", "hunter2"):
            assert hidden not in shown


def _history(stack: Stack, ticket: int) -> list[str]:
    """Return the lines that `publisher status --history` shows."""
    command = [sys.executable, "-m", "publisher.cli.main", "status", str(ticket), "--history", "--json"]
    environment = stack.settings.environment() | dict(stack.environment)
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60 * PATIENCE)
    return [each["words"] for each in json.loads(done.stdout)["history"]]
