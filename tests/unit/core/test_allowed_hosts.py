"""Which hosts are ours, and that a kept verdict belongs to the settings that it was made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from publisher.core.allowed_hosts import is_allowed
from publisher.core.settings import Settings

LOCAL_ADDRESS = "192.0.2.7"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("LocalHost.:8000", True),
        ("127.0.0.3:8000", True),
        ("[::1]:8000", True),
        (f"{LOCAL_ADDRESS}:8000", True),
        ("cloud.example.com", True),
        ("evil.example.com", False),
        ("", False),
        ("[", False),
        ("x." * 200 + "localhost", True),
        ("x." * 200 + "example.com", False),
    ],
)
def test_host_is_ours_each_time_it_is_asked_for(tmp_path: Path, host: str, ours: bool) -> None:
    settings = Settings(data_dir=tmp_path, allowed_hosts="cloud.example.com, other.example.com")
    assert [is_allowed(host, settings, local_address=LOCAL_ADDRESS) for _ in range(2)] == [ours, ours]


def test_verdict_depends_on_the_settings_and_on_the_local_address(tmp_path: Path) -> None:
    strict, open_ = (Settings(data_dir=tmp_path, allowed_hosts=hosts) for hosts in ("", "a.example.com"))
    public = Settings(data_dir=tmp_path, public_url="https://a.example.com")
    verdicts = [is_allowed("a.example.com", each, local_address=LOCAL_ADDRESS) for each in (strict, open_, public)]
    assert verdicts == [False, True, True]
    assert not is_allowed(LOCAL_ADDRESS, strict, local_address="192.0.2.8")
    assert is_allowed(LOCAL_ADDRESS, strict, local_address=LOCAL_ADDRESS)
