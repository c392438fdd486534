"""Which hosts count as internal, and what a server URL must look like."""

from __future__ import annotations

import pytest

from dbward.errors import Misconfigured
from dbward.settings.transport import check_transport, check_url, is_internal


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.1.1",
        "::1",
        "::",
        "fd00::1",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "server",
        "dbward-server_1",
        "db.internal",
        "a.b.svc.cluster.local",
        "x.localhost",
    ],
)
def test_internal(host: str) -> None:
    assert is_internal(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "8.8.8.8",
        "172.32.0.1",
        "192.169.0.1",
        "100.64.0.1",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "2002:0a00:0001::1",
        "64:ff9b::a00:1",
        "notinternal.example",
        "evil.internal.example.com",
        "localhost.example.com",
        "134744072",
        "0x08080808",
        "",
        "-",
    ],
)
def test_not_internal(host: str) -> None:
    assert not is_internal(host)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com", "encrypted"),
        ("https://8.8.8.8:444/x", "encrypted"),
        ("http://server:3000", "internal"),
        ("http://[::1]:3000", "internal"),
        ("http://[fd12::1]:3000/", "internal"),
    ],
)
def test_allowed_without_asking(url: str, expected: str) -> None:
    assert check_transport(url, allow_insecure=False) == expected


@pytest.mark.parametrize("url", ["http://example.com", "http://[2001:db8::1]:3000", "http://134744072/"])
def test_plain_http_in_public(url: str) -> None:
    with pytest.raises(Misconfigured) as e:
        check_transport(url, allow_insecure=False)
    assert e.value.code == "transport.insecure"
    assert check_transport(url, allow_insecure=True) == "insecure"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "server:3000",
        "ftp://server",
        "http://",
        "http://:3000",
        "http://user:pw@server",
        "http://localhost\\@example.com",
        "http://server/a b",
        "http://server\n.example.com",
        "http://server?x=1",
        "http://server#x",
        "http://server:99999",
        "http://[::1",
    ],
)
def test_no_server_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_url(url)
    with pytest.raises(Misconfigured):
        check_transport(url, allow_insecure=True)


def test_trailing_slashes_go() -> None:
    assert check_url("https://x.example/base/") == "https://x.example/base"
