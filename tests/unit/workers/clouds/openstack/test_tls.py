"""Errors tell apart the faults of a cloud's TLS: another host name, an unknown authority, and no TLS at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from publisher.core.errors import PermanentCloudError, Reason
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import EVERYWHERE
from tests.keystone_v2 import KeystoneV2Stub
from tests.servers.certificates import Authority, authority
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher
from workers.http_clients import trust
from workers.transfer import Transfer

PASSWORD = "hunter2-of-the-cloud"
SENTENCES = {
    "another name": "is for another host name; use the certificate's name in {element}",
    "no authority": "is not trusted (unable to get local issuer certificate); give its CA certificate as caBundle",
    "no TLS": "does not use TLS; use http:// in {element}, or a port that uses TLS",
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


def server(fault: str, ours: Authority) -> KeystoneV2Stub:
    return KeystoneV2Stub("", users={"joe": PASSWORD}, tenants={"t"}, tls=None if fault == "no TLS" else ours.server)


def address(fault: str, keystone: KeystoneV2Stub) -> str:
    """Return the https URL of the server. Its certificate is for 127.0.0.1, so that `localhost` is another name."""
    url = keystone.url.replace("http:", "https:")
    return url.replace("127.0.0.1", "localhost") if fault == "another name" else url


@pytest.mark.parametrize("fault", SENTENCES)
def test_keystone_with_wrong_tls_is_refused_with_advice(ours: Authority, fault: str) -> None:
    with server(fault, ours) as keystone:
        url = address(fault, keystone)
        fields = {"keystoneUrl": url, "login": "joe", "keystoneVersion": "v2.0"}
        fields |= {} if fault == "no authority" else {"caBundle": ours.pem}
        account = Account("openstack", fields, {"password": PASSWORD})
        words = SENTENCES[fault].format(element="keystoneUrl")
        with pytest.raises(PermanentCloudError, match=f"Keystone at {url} {re.escape(words)}") as caught:
            OpenStackPublisher.connect(
                account, Target("openstack", {"tenantName": "t"}), Timeouts(5, 20, 20), EVERYWHERE
            )
    assert caught.value.reason is Reason.CONFIGURATION


@pytest.mark.parametrize("fault", SENTENCES)
def test_glance_with_wrong_tls_gets_no_image(ours: Authority, tmp_path: Path, fault: str) -> None:
    (tmp_path / "disk").write_bytes(b"a disk")
    with server(fault, ours) as glance, (tmp_path / "disk").open("rb") as file:
        tls = trust() if fault == "no authority" else trust(ours.pem)
        words = SENTENCES[fault].format(element="glanceUrl")
        with pytest.raises(PermanentCloudError, match=re.escape(words)):
            Transfer(file.fileno(), 6).put(address(fault, glance), {}, tls=tls)
