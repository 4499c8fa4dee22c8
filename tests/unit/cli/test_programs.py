from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from publisher.cli import programs
from publisher.cli.supervisor import Program, Supervisor
from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings
from tests.servers import missing
from tests.servers.redis import find_redis


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / 'data "of" mine')


@pytest.mark.real
def test_redis_listens_only_on_its_unix_socket(settings: Settings, tmp_path: Path) -> None:
    if find_redis() is None:
        missing("redis-server")
    address = settings.embedded_redis_socket
    program = Program("redis", programs.redis(settings), dict(os.environ), lambda: programs.redis_answers(address))
    with Supervisor(tmp_path / "logs", lambda name, line: None) as supervisor:
        supervisor.start(program)

        assert address.stat().st_mode & 0o777 == 0o600
        assert address.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(address))
            connection.sendall(b"CONFIG GET port\r\nCONFIG GET save\r\n")
            connection.settimeout(5)
            answer = b""
            while answer.count(b"\r\n") < 10:
                answer += connection.recv(4096)
        assert answer == b"*2\r\n$4\r\nport\r\n$1\r\n0\r\n*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
        with pytest.raises(ConfigurationError, match="already running here"):
            programs.redis(settings)

    assert not programs.redis_answers(address)
    # A killed server leaves its socket behind. That must not prevent the next start.
    programs.redis(settings)


def test_a_directory_that_others_may_write_to_is_refused(settings: Settings) -> None:
    settings.data_dir.mkdir()
    settings.data_dir.chmod(0o777)

    with pytest.raises(ConfigurationError, match="only you can write to"):
        programs.redis(settings)


def test_symlink_as_socket_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings(data_dir=tmp_path / ("long" * 30))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    settings.embedded_redis_socket.parent.symlink_to(elsewhere)

    with pytest.raises(ConfigurationError, match="only you can write to"):
        programs.redis(settings)


def test_error_without_redis_server_suggests_a_broker_url(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(ConfigurationError, match="PUBLISHER_BROKER_URL"):
        programs.redis_executable()
