"""Going back to a backup: what was published since is found in the cloud, and not published again."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.servers.redis import RedisServer
from tests.stack import Stack

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"


def test_a_ticket_that_waited_at_the_backup_adopts_what_it_published_since(
    tmp_path: Path, redis: RedisServer, devcloud: DevCloud, glance: Glance
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(1 << 20))
    directory = tmp_path / "data"
    database, backup = directory / "publisher.db", tmp_path / "backup.db"
    with Stack.in_directory(directory, redis.url, workers=0) as stack:
        stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI))
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        stack.add_worker()
        assert stack.wait(ticket)["published"]
        later = stack.publish(publish_body(devcloud, URI))
        assert stack.wait(later)["published"]
    (image,) = glance.images(ticket)

    for name in (database, database.with_name("publisher.db-wal"), database.with_name("publisher.db-shm")):
        name.unlink(missing_ok=True)
    backup.rename(database)
    with closing(sqlite3.connect(database)) as restored:
        restored.execute("UPDATE sqlite_sequence SET seq = seq + 1000000 WHERE name = 'tickets'")
        restored.commit()
    with Stack.in_directory(directory, redis.url) as stack:
        assert stack.wait(ticket)["published"]
        assert stack.call("GET", ticket["uri"]).json["cloudId"] == image["id"]
        assert [each["id"] for each in glance.images(ticket)] == [image["id"]]
        assert stack.call("GET", later["statusUri"]).status == 404
        assert len(glance.images(later)) == 1
        assert stack.publish(publish_body(devcloud, URI))["dbId"] > later["dbId"]
