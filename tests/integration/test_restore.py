"""After a restore from a backup, images published since are found in the cloud and not published again."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from publisher.devcloud.cloud import DevCloud
from tests.clouds import Glance, publish_body
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.stack import Stack

pytestmark = pytest.mark.real

URI = "users/root/appliances/4/images/7"


class SqliteBackup:
    """The steps of docs/operations.md, "Backups, and going back to one"."""

    def __init__(self, directory: Path) -> None:
        self.settings: dict[str, Any] = {}
        self._database, self._backup = directory / "data" / "publisher.db", directory / "backup.db"

    def take(self) -> None:
        with closing(sqlite3.connect(self._database)) as source, closing(sqlite3.connect(self._backup)) as target:
            source.backup(target)

    def go_back(self) -> None:
        for end in ("", "-wal", "-shm"):
            self._database.with_name(self._database.name + end).unlink(missing_ok=True)
        self._backup.rename(self._database)
        with closing(sqlite3.connect(self._database)) as restored:
            restored.execute(
                "UPDATE sqlite_sequence SET seq = seq + 1000000 WHERE name IN ('tickets', 'images', 'accounts')"
            )
            restored.commit()


class PostgresBackup:
    """The same steps for PostgreSQL."""

    def __init__(self, directory: Path, server: PostgresServer) -> None:
        self._server = server
        self._url = server.fresh()
        self._name = self._url.rsplit("/", 1)[1]
        self._backup = directory / "backup.dump"
        self.settings: dict[str, Any] = {"database_url": self._url}

    def take(self) -> None:
        self._server.run("pg_dump", "--format=custom", f"--file={self._backup}", self._url)

    def go_back(self) -> None:
        self._server.run("dropdb", self._name)
        self._server.run("createdb", self._name)
        self._server.run("pg_restore", f"--dbname={self._url}", self._backup)
        with psycopg.connect(self._url) as restored:
            restored.execute(
                "SELECT setval(name, nextval(name) + 1000000)"
                " FROM unnest(ARRAY['tickets_id_seq', 'images_id_seq', 'accounts_id_seq']) AS name"
            )


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> SqliteBackup | PostgresBackup:
    if request.param == "sqlite":
        return SqliteBackup(tmp_path)
    return PostgresBackup(tmp_path, request.getfixturevalue("postgres"))


def test_restored_ticket_adopts_the_image_that_it_had_published(
    tmp_path: Path,
    redis: RedisServer,
    devcloud: DevCloud,
    glance: Glance,
    database: SqliteBackup | PostgresBackup,
) -> None:
    file = tmp_path / "image.raw"
    file.write_bytes(os.urandom(1 << 20))
    directory = tmp_path / "data"
    with Stack.in_directory(directory, redis.url, workers=0, **database.settings) as stack:
        stack.add_image(file, id=7)
        ticket = stack.publish(publish_body(devcloud, URI))
        database.take()
        stack.add_worker()
        assert stack.wait(ticket)["published"]
        later = stack.publish(publish_body(devcloud, URI))
        assert stack.wait(later)["published"]
        later_image = stack.add_image(file)
    (image,) = glance.images(ticket)

    database.go_back()
    with Stack.in_directory(directory, redis.url, **database.settings) as stack:
        assert stack.wait(ticket)["published"]
        assert stack.call("GET", ticket["uri"]).json["cloudId"] == image["id"]
        assert [each["id"] for each in glance.images(ticket)] == [image["id"]]
        assert stack.call("GET", later["statusUri"]).status == 404
        assert len(glance.images(later)) == 1
        assert stack.publish(publish_body(devcloud, URI))["dbId"] > later["dbId"]
        assert stack.add_image(file).id > later_image.id
