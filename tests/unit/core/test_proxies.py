"""How settings and accounts name proxies, and the hosts that are reached without them."""

from __future__ import annotations

import pytest

from publisher.core.errors import ConfigurationError
from publisher.core.proxies import DirectHosts, Proxy
from publisher.core.settings import Settings
from publisher.core.settings_report import in_force

SECRET = "hunter2"
URL, NO_PROXY = "PUBLISHER_HTTP_PROXY", "PUBLISHER_NO_PROXY"


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://proxy.example.com:3128", ("proxy.example.com", 3128, "", "")),
        ("HTTP://Proxy.Example.com:3128/", ("proxy.example.com", 3128, "", "")),
        ("http://10.0.0.5:80", ("10.0.0.5", 80, "", "")),
        ("http://[2001:db8::5]:8888", ("2001:db8::5", 8888, "", "")),
        ("http://joe:p%40s%2Fs%3A@proxy:3128", ("proxy", 3128, "joe", "p@s/s:")),
        ("http://joe@proxy:3128", ("proxy", 3128, "joe", "")),
    ],
)
def test_url_of_a_proxy_is_read(url: str, read: tuple[str, int, str, str]) -> None:
    proxy = Proxy.of_setting(Settings.from_environment({URL: url}).http_proxy)
    assert proxy
    assert (proxy.host, proxy.port, proxy.login, proxy.password) == read
    assert not proxy.of_account


def test_no_url_means_no_proxy() -> None:
    assert Proxy.of_setting("", "*") is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("proxy.example.com:3128", "scheme"),
        (f"https://joe:{SECRET}@proxy:3128", "cannot use TLS"),
        (f"socks5://joe:{SECRET}@proxy:1080", "scheme"),
        (f"http://joe:{SECRET}@proxy", "a host and a port"),
        (f"http://joe:{SECRET}@:3128", "a host and a port"),
        (f"http://joe:{SECRET}@proxy:0", "port"),
        (f"http://joe:{SECRET}@proxy:70000", "port"),
        (f"http://joe:{SECRET}@more@proxy:3128", "%40"),
        (f"http://joe:{SECRET}/more@proxy:3128", "%2F"),
        (f"http://joe:{SECRET}@proxy:3128/path", "nothing may follow"),
        (f"http://joe:{SECRET}@proxy:3128/?x=1", "nothing may follow"),
        (f"http://jo%3Ae:{SECRET}@proxy:3128", "colon"),
        (f"http://joe:{SECRET}@pro xy:3128", "space"),
        (f"http://joe:{SECRET}@one:1,two:2", "several hosts"),
    ],
)
def test_wrong_url_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{URL}: ") as caught:
        Settings.from_environment({URL: url})
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_password_is_never_shown() -> None:
    settings = Settings.from_environment({URL: f"http://joe:{SECRET}@proxy:3128"})
    assert SECRET not in repr(Proxy.of_setting(settings.http_proxy))
    shown = {each.name: each.value for each in in_force(settings)}
    assert shown["http_proxy"] == "http://joe:***@proxy:3128"


@pytest.mark.parametrize(
    ("text", "direct", "proxied"),
    [
        ("", (), ("cloud.example.com", "127.0.0.1", "localhost")),
        ("*", ("cloud.example.com", "127.0.0.1", "::1"), ()),
        (
            "cloud.example.com",
            ("cloud.example.com", "Cloud.Example.Com.", "a.cloud.example.com"),
            ("example.com", "mycloud.example.com", "cloud.example.com.evil.net"),
        ),
        (".example.com", ("example.com", "a.example.com", "a.b.example.com"), ("badexample.com", "com")),
        ("*.example.com", ("a.example.com",), ("badexample.com",)),
        ("10.0.0.0/8", ("10.1.2.3", "::ffff:10.1.2.3"), ("11.0.0.1", "host10.0.0.1", "ten.example.com")),
        ("192.168.1.7", ("192.168.1.7",), ("192.168.1.70", "192.168.1.8")),
        ("fd00::/8, [2001:db8::1]", ("fd12::1", "[fd12::1]", "2001:db8::1", "[2001:DB8:0::1]"), ("2001:db8::2", "::1")),
        ("a.net 10.0.0.1,,\tb.net ,", ("a.net", "10.0.0.1", "b.net"), ("c.net",)),
    ],
)
def test_hosts_are_reached_directly_by_name_domain_or_network(
    text: str, direct: tuple[str, ...], proxied: tuple[str, ...]
) -> None:
    found = DirectHosts.parse(text)
    assert [each for each in (*direct, *proxied) if each in found] == list(direct)


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "10.0.0.0/33", "cloud.example.com:5000", "[::1", "http://cloud", "a;b", "1.2.3", "a..b", "ä"]
)
def test_wrong_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{NO_PROXY}: give hosts, domains"):
        Settings.from_environment({NO_PROXY: text})
