"""Who is on the other end of the connection: its address, and whether it is still there."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from flask import request

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Linux says that the peer has closed its side; elsewhere only a full hang-up is seen.
CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def peer_gone() -> bool:
    """True when the client of this request has hung up, so that nothing is handed to nobody.

    Behind a proxy the proxy's connection is what is seen; a lease covers that case. The socket is only looked at, never
    read, which also works through TLS.
    """
    sock = request.environ.get("gunicorn.socket")
    if not isinstance(sock, socket.socket):
        return False
    try:
        poller = select.poll()
        poller.register(sock.fileno(), CLOSED)
        return bool(poller.poll(0))
    except (OSError, ValueError):
        return True


def client_address(peer: str | None, forwarded: str | None, trusted: Sequence[Network]) -> tuple[str | None, str]:
    """The caller's address and where it was read: `peer`, or `xff` when the peer is a trusted proxy.

    `X-Forwarded-For` is read from its right end, which the nearest proxy wrote; the first address that is not a trusted
    proxy is the client. What stands left of it was sent by that client and proves nothing.
    """
    nearest = _parse(peer or "")
    if nearest is None or not forwarded or not _is_trusted(nearest, trusted):
        return peer, "peer"
    hops = [hop for part in forwarded.split(",") if (hop := _parse(part.strip())) is not None]
    for hop in reversed(hops):
        if not _is_trusted(hop, trusted):
            return str(hop), "xff"
    return (str(hops[0]), "xff") if hops else (peer, "peer")


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)
