"""Clients that connect and do not get to the point: they cost the server no thread, and nobody else the service."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPResponse

import psutil
import pytest

from tests.support.processes import DBWARD, POLICY, Farm, Server, status_of
from web.front import HEAD_SECS, WAITING_MAX

pytestmark = pytest.mark.e2e

FEW_THREADS = POLICY + "\n[server]\nmax_polls = 8\n"
CLIENTS = 200
"""More than the server has threads, and fewer than it lets wait."""

GET = b"GET /health HTTP/1.1\r\nHost: dbward\r\n"


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


@contextmanager
def crowd(server: Server, first: bytes, size: int = CLIENTS) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(server))) for _ in range(size)]
        for client in clients:
            client.sendall(first)
        yield clients


def status(sock: socket.socket) -> int:
    response = HTTPResponse(sock)
    response.begin()
    response.read()
    return response.status


def worker_of(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


@pytest.mark.parametrize("first", [b"", b"GET /hea", GET, GET + b"\r\n" + GET], ids=["none", "line", "head", "second"])
def test_unfinished_heads_take_no_threads(farm: Farm, first: bytes) -> None:
    server = farm.server(config=FEW_THREADS)
    with crowd(server, first) as clients:
        assert status_of(f"{server.url}/health") == 200
        rest = {b"": GET + b"\r\n", b"GET /hea": GET[8:] + b"\r\n"}.get(first, b"\r\n")
        clients[-1].sendall(rest)
        assert status(clients[-1]) == 200
    assert "Traceback" not in server.process.log()


def test_who_has_waited_longest_makes_room(farm: Farm) -> None:
    server = farm.server(config=FEW_THREADS)
    with crowd(server, b"GET /hea", 400) as clients:
        assert status_of(f"{server.url}/health") == 200
        with suppress(ConnectionResetError):
            assert clients[0].recv(1) == b""
        clients[-1].sendall(GET[8:] + b"\r\n")
        assert status(clients[-1]) == 200


def test_who_makes_room_may_be_heard_in_the_same_moment(farm: Farm) -> None:
    server = farm.server(config=FEW_THREADS)
    worker = worker_of(server)
    with crowd(server, GET, WAITING_MAX) as clients:
        assert status_of(f"{server.url}/health") == 200
        worker.suspend()
        with crowd(server, b"", 3):  # the poller tells of these first: each closes one of those it tells of next
            for client in clients:
                client.sendall(b"\r\n")
            worker.resume()
            assert status(clients[-1]) == 200
    assert worker_of(server) == worker
    assert "Traceback" not in server.process.log()


def test_a_peer_that_leaves_before_the_end_of_its_head_is_let_go_at_once(farm: Farm) -> None:
    server = farm.server()
    with closing(connect(server)) as sock:
        sock.settimeout(HEAD_SECS / 2)  # later, its time would be over anyway
        sock.sendall(GET)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


@pytest.mark.slow
def test_a_head_that_does_not_end_in_time_is_given_up(farm: Farm) -> None:
    server = farm.server()
    with closing(connect(server)) as sock:
        sock.settimeout(1)
        sock.sendall(GET + b"X-A: ")
        with suppress(ConnectionError):
            while True:
                try:
                    assert sock.recv(1) == b""
                    break
                except TimeoutError:
                    sock.sendall(b"a")


def test_requests_sent_without_waiting_are_all_answered(farm: Farm) -> None:
    server = farm.server()
    with closing(connect(server)) as sock:
        sock.sendall((GET + b"\r\n") * 1000)
        sock.shutdown(socket.SHUT_WR)
        answers = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 ") == 1000


def test_more_connections_than_open_files_allowed(farm: Farm) -> None:
    program = ("prlimit", "--nofile=300:300", *DBWARD)
    server = farm.server(config=FEW_THREADS, program=program)
    worker = worker_of(server)
    with suppress(ConnectionError), crowd(server, GET + b"\r\n", 400):  # some are kept alive, as long as there is room
        farm.until(lambda: status_of(f"{server.url}/health") == 200, "others are served", server.process)
    assert worker.is_running()
    assert worker_of(server) == worker
    assert "Traceback" not in server.process.log()


def test_the_server_allows_itself_the_files_it_needs(farm: Farm) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = farm.server(config=FEW_THREADS, program=("prlimit", "--nofile=256:", *DBWARD))
    soft, _ = worker_of(server).rlimit(resource.RLIMIT_NOFILE)
    assert soft > 1000 or soft == hard


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /" + b"a" * 20_000, 414),
        (GET + b"X-A: " + b"a" * 40_000, 431),
        (b"SSH-2.0-OpenSSH_9.9\r\n", 400),
        (b"GET / HTTP/2.0\r\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
    ids=["line", "headers", "ssh", "version", "line-feed", "tls"],
)
def test_a_head_that_can_only_be_refused_is_refused_before_its_end(farm: Farm, sent: bytes, expected: int) -> None:
    server = farm.server()
    with closing(connect(server)) as sock:
        sock.sendall(sent)
        assert status(sock) == expected


def test_a_head_in_single_bytes_is_served(farm: Farm) -> None:
    server = farm.server()
    with closing(connect(server)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\n" + GET + b"\r\n":
            sock.sendall(bytes([byte]))
        assert status(sock) == 200
