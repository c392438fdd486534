"""Which server URLs may be used: https anywhere, plain http only to hosts that are not on the public internet."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal
from urllib.parse import urlsplit

from dbward.errors import Misconfigured

Transport = Literal["encrypted", "internal", "insecure"]

_INTERNAL_NETS = [
    ip_network(net)
    for net in (
        "0.0.0.0/32",
        "10.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
]
_INTERNAL_SUFFIXES = (".internal", ".svc.cluster.local", ".localhost")
_SHORT_NAME = re.compile(r"[a-z_][a-z0-9_-]*", re.ASCII)
_UNUSABLE = re.compile(r"[\s\\\x00-\x1f\x7f]")


def check_url(url: str) -> str:
    """The URL without its trailing `/`. Raises `ValueError` saying why it cannot be a server's address."""
    if _UNUSABLE.search(url):
        msg = "holds a space, a backslash or a control character"
        raise ValueError(msg)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        msg = "is not a URL"
        raise ValueError(msg) from None
    if parts.scheme not in {"http", "https"}:
        msg = "must start with https:// or http://"
        raise ValueError(msg)
    if not host:
        msg = "names no host"
        raise ValueError(msg)
    if parts.username is not None or parts.password is not None:
        msg = "must not hold a user or a password"
        raise ValueError(msg)
    if parts.query or parts.fragment:
        msg = "must not have a query or a fragment"
        raise ValueError(msg)
    return url.rstrip("/")


def check_transport(url: str, allow_insecure: bool) -> Transport:  # noqa: FBT001 - the agreed signature
    """How `url` is protected: encrypted, inside a private network, or `insecure`, which deserves a warning.

    Raises `Misconfigured` for plain http to a public host unless `allow_insecure`, and for anything that is no URL.
    """
    try:
        check_url(url)
    except ValueError as e:
        raise Misconfigured(f"server.url: {e}") from None
    parts = urlsplit(url)
    if parts.scheme == "https":
        return "encrypted"
    if is_internal(parts.hostname or ""):
        return "internal"
    if not allow_insecure:
        raise Misconfigured(
            f"server.url: plain http to {parts.hostname} would send the token readable by everyone on the way",
            code="transport.insecure",
            hint="use https, or set allow_insecure = true (DBWARD_ALLOW_INSECURE=true) if the network is trusted",
        )
    return "insecure"


def is_internal(host: str) -> bool:
    """Loopback, private and link-local addresses, and names that only resolve inside a network.

    A name without dots counts as internal, but not one that resolvers read as a number (`134744072` is 8.8.8.8).
    """
    name = host.lower().removesuffix(".")
    try:
        address: IPv4Address | IPv6Address = ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return name == "localhost" or name.endswith(_INTERNAL_SUFFIXES) or _SHORT_NAME.fullmatch(name) is not None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in net for net in _INTERNAL_NETS)
