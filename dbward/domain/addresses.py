"""Where the server may call out to: public addresses only, unless the configuration says otherwise."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""IPv4 addresses as a NAT64 gateway shows them."""
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)", re.IGNORECASE)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it can be reached from anywhere: not loopback, private, link-local, shared, reserved or multicast.

    An IPv6 address that stands for an IPv4 one is as public as that one.
    """
    if isinstance(address, IPv6Address) and (inside := _embedded(address)) is not None:
        return is_public(inside)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo is not None else None)


def refuse_host(host: str) -> str | None:
    """Why a server must not call this host, as far as its text tells; None for a public address and for any other name.

    What a name stands for is known only when it is resolved.
    """
    host = host.removesuffix(".").partition("%")[0].lower()
    if host == "localhost" or host.endswith(".localhost"):
        return "is this machine itself"
    try:
        address = ip_address(host)
    except ValueError:
        # Resolvers read `127.1`, `0x7f000001` and `2130706433` as addresses too.
        return "is a number, but not a whole address" if _NUMERIC.fullmatch(host) else None
    return None if is_public(address) else "is not a public address"
