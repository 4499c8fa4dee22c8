"""A broker behind TLS: its certificate and its host name are checked unless a setting says otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from publisher.cli.programs import ping_workers
from publisher.core.broker import Broker
from publisher.core.errors import QueueUnavailable
from publisher.core.settings import Settings
from publisher.services.wakeups import WakeQueue
from tests.patience import PATIENCE
from tests.servers.certificates import Authority, authority
from tests.servers.tls import tls_before
from tests.stack import Stack

pytestmark = pytest.mark.real


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    made = authority(tmp_path)
    (tmp_path / "ca.pem").write_text(made.pem)
    return made


@pytest.fixture(params=["redis", "rabbitmq"])
def tls_url(request: pytest.FixtureRequest, trusted: Authority) -> Iterator[str]:
    """The URL of a broker with a certificate for 127.0.0.1, issued by an authority of the tests."""
    server = request.getfixturevalue(request.param)
    with tls_before(server.port, trusted.server) as port:
        scheme = "rediss" if request.param == "redis" else "amqps"
        yield urlsplit(server.url)._replace(scheme=scheme).geturl().replace(f":{server.port}/", f":{port}/")


def check(broker: Broker) -> None:
    queue = WakeQueue(broker, timeout_seconds=5.0)
    try:
        queue.check()
    finally:
        queue.close()


def test_a_certificate_by_an_unknown_authority_is_refused(tls_url: str) -> None:
    with pytest.raises(QueueUnavailable):
        check(Broker(tls_url))


def test_a_certificate_for_another_host_is_refused(tls_url: str, tmp_path: Path) -> None:
    with pytest.raises(QueueUnavailable):
        check(Broker(tls_url.replace("127.0.0.1", "127.0.0.2"), tmp_path / "ca.pem"))


def test_the_authority_that_a_setting_names_is_trusted(tls_url: str, tmp_path: Path) -> None:
    check(Broker(tls_url, tmp_path / "ca.pem"))


def test_a_setting_turns_the_check_off(tls_url: str) -> None:
    check(Broker(tls_url, verify=False))


def test_doctor_says_how_the_certificate_is_checked(tls_url: str, tmp_path: Path) -> None:
    def doctor(**variables: str) -> dict[str, dict[str, str]]:
        result = subprocess.run(
            [sys.executable, "-m", "publisher.cli.main", "doctor", "--json"],
            env=os.environ | {"PUBLISHER_DATA_DIR": str(tmp_path), "PUBLISHER_BROKER_URL": tls_url} | variables,
            capture_output=True,
            timeout=120 * PATIENCE,
            check=False,
        )
        return {each["name"]: each for each in json.loads(result.stdout)["checks"]}

    unknown = doctor()
    assert unknown["broker"]["level"] == "fail"
    assert "the system trusts" in unknown["broker TLS"]["message"]
    ca_file = str(tmp_path / "ca.pem")
    checked = doctor(PUBLISHER_BROKER_CA_FILE=ca_file)
    assert checked["broker"]["level"] == "ok"
    assert ca_file in checked["broker TLS"]["message"]
    unchecked = doctor(PUBLISHER_BROKER_TLS_VERIFY="false")
    assert (unchecked["broker"]["level"], unchecked["broker TLS"]["level"]) == ("ok", "warn")
    assert "PUBLISHER_BROKER_TLS_VERIFY" in unchecked["broker TLS"]["advice"]


def test_a_worker_connects_to_a_broker_behind_tls(tls_url: str, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    with Stack.in_directory(tmp_path / "data", tls_url, broker_ca_file=ca_file) as stack:
        settings: Settings = stack.settings
        assert len(ping_workers(settings, timeout_seconds=10, only=None)) == 1
