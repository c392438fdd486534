"""Who is on the other end: addresses behind proxies, and peers that have hung up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network

import pytest
from flask import Flask

from web.peer import client_address, peer_gone

PROXIES = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("203.0.113.9", None, PROXIES, ("203.0.113.9", "peer")),
        ("203.0.113.9", "198.51.100.1", PROXIES, ("203.0.113.9", "peer")),  # not a proxy: what it says is ignored
        ("10.0.0.1", "198.51.100.1", [], ("10.0.0.1", "peer")),
        ("10.0.0.1", None, PROXIES, ("10.0.0.1", "peer")),
        ("10.0.0.1", "198.51.100.1", PROXIES, ("198.51.100.1", "xff")),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", PROXIES, ("198.51.100.1", "xff")),  # 6.6.6.6 is forged
        ("10.0.0.1", "10.9.9.9, 10.0.0.2", PROXIES, ("10.9.9.9", "xff")),  # all trusted: the leftmost
        ("10.0.0.1", "garbage, 198.51.100.1, , 10.0.0.2", PROXIES, ("198.51.100.1", "xff")),
        ("10.0.0.1", "garbage", PROXIES, ("10.0.0.1", "peer")),
        ("2001:db8::1", "2001:dead::5", PROXIES, ("2001:dead::5", "xff")),
        ("::ffff:10.0.0.1", "198.51.100.1", PROXIES, ("198.51.100.1", "xff")),
        (None, "198.51.100.1", PROXIES, (None, "peer")),
    ],
)
def test_the_client_is_the_last_address_no_trusted_proxy_has(peer, forwarded, trusted, expected):
    assert client_address(peer, forwarded, trusted) == expected


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with closing(client), closing(accepted):
            yield accepted, client


def test_a_connected_peer_is_there_even_when_it_has_sent_more(pair):
    ours, theirs = pair
    theirs.sendall(b"the next request")
    with Flask("t").test_request_context(environ_overrides={"gunicorn.socket": ours}):
        assert not peer_gone()
    assert ours.recv(100) == b"the next request"  # only looked at, not read


def test_a_peer_that_hung_up_is_noticed_behind_unread_bytes(pair):
    ours, theirs = pair
    theirs.sendall(b"unread")
    theirs.close()
    with Flask("t").test_request_context(environ_overrides={"gunicorn.socket": ours}):
        assert peer_gone()


def test_a_socket_closed_on_our_side_is_gone(pair):
    ours, _ = pair
    with Flask("t").test_request_context(environ_overrides={"gunicorn.socket": ours}):
        ours.close()
        assert peer_gone()


def test_without_a_socket_nobody_is_declared_gone():
    with Flask("t").test_request_context():
        assert not peer_gone()
