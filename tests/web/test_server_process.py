"""The server as a process: start, refusal to start, drain, and death of either of its two processes."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import psutil
import pytest

from tests.conftest import State
from tests.support.processes import POLICY, Farm, Process, Server, call, status_of

pytestmark = pytest.mark.e2e

POLLS = 100


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as sock:
        yield sock


def send(sock: socket.socket, head: str, token: str | None = None) -> None:
    auth = f"Authorization: Bearer {token}\r\n" if token else ""
    sock.sendall(f"{head} HTTP/1.1\r\nHost: dbward\r\n{auth}\r\n".encode())


def answer(sock: socket.socket) -> tuple[int, dict[str, str], object]:
    response = HTTPResponse(sock)
    response.begin()
    raw = response.read()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(raw) if raw else None


def worker_of(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def pending_request(server: Server) -> str:
    status, made = call(
        "POST",
        f"{server.url}/api/requests",
        server.admin_token,
        {"database": "app", "environment": "production", "detail": "SELECT 1"},
    )
    assert status == 201
    return str(made["id"])


def executed(farm: Farm, server: Server, agent: Process) -> bool:
    """Run a statement through the agent, whatever it takes it to come back."""
    body = {"database": "app", "environment": "development", "detail": "SELECT 1"}
    status, made = call("POST", f"{server.url}/api/requests", server.admin_token, body)
    assert status == 201
    path = f"{server.url}/api/requests/{made['id']}"

    def done() -> bool:
        status, shown = call("GET", f"{path}?wait=20", server.admin_token)
        return status == 200 and shown["status"] == "executed"

    return farm.until(done, "the agent has run it", agent)


def refused(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except ConnectionError:
        return True
    return False


def test_start_says_where_it_is_and_keeps_its_tokens_private(farm: Farm):
    server = farm.server()
    log = server.process.log()
    assert f"listening on {server.url}, tokens in {server.state_dir}" in log
    assert "[init] bootstrap tokens written to" in log
    assert "Traceback" not in log
    for name in ("admin-token", "agent-token", "requester-token", "signing.key"):
        assert stat.S_IMODE((server.state_dir / name).stat().st_mode) == 0o600
    assert server.admin_token not in log
    before = server.admin_token, server.agent_token, (server.state_dir / "signing.key").read_bytes()
    assert server.process.terminate() == 0
    server.start_again()
    assert (server.admin_token, server.agent_token, (server.state_dir / "signing.key").read_bytes()) == before
    assert call("GET", f"{server.url}/api/me", server.admin_token)[0] == 200


def test_a_second_server_on_the_same_state_is_refused_in_the_end(farm: Farm, free_port: int):
    server = farm.server(config=POLICY + "[state]\nlock_wait_secs = 1\n")
    second = farm.launch_server("second", server.config, free_port, {})
    assert second.wait() == 1
    assert "waiting up to 1 seconds" in second.log()
    assert f"another dbward server (process {server.process.pid} " in second.log()
    assert "Traceback" not in second.log()
    assert status_of(f"{server.url}/ready") == 200


def test_a_port_in_use_is_said_and_nothing_is_made(farm: Farm):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        config = farm.dir / "s.toml"
        config.write_text(f"state_dir = {json.dumps(str(farm.dir / 'state'))}\n{POLICY}")
        process = farm.launch_server("server", config, taken.getsockname()[1], {})
        assert process.wait() == 1
    assert "cannot listen on 127.0.0.1:" in process.log()
    assert "Traceback" not in process.log()
    assert not (farm.dir / "state").exists()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("", "there is no such file"),
        ("state_dir = 5\n", "state_dir"),
        ('state_dir = "state"\nsurprise = 1\n', "surprise"),
        ('state_dir = "state"\n[state]\nurl = "postgresql://u:hunter2x@127.0.0.1:1/db"\n', "127.0.0.1"),
        ('state_dir = "/proc/nothing"\n', "state directory"),
    ],
    ids=["no file", "wrong type", "unknown key", "database down", "directory unusable"],
)
def test_start_errors_are_one_message_and_exit_1(farm: Farm, free_port: int, head: str, said: str):
    config = farm.dir / "s.toml"
    if head:
        config.write_text(head + POLICY)
    process = farm.launch_server("server", config, free_port, {})
    assert process.wait(60) == 1
    assert said in process.log()
    assert "Traceback" not in process.log()
    assert "hunter2x" not in process.log()


def test_sigterm_ends_a_hundred_waiting_calls_with_an_answer(farm: Farm, state: State, sqlite_path: Path):
    server = farm.server(state_url=state.url if state.dialect == "postgresql" else None)
    request_id = pending_request(server)
    sqlite_path.touch()
    agent = farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    with ExitStack() as stack:
        polls = [stack.enter_context(connection(server)) for _ in range(POLLS)]
        for number, sock in enumerate(polls):
            path = f"/api/requests/{request_id}" + ("?wait=120" if number % 2 else "/result/stream")
            send(sock, f"GET {path}", server.admin_token)
        farm.until(lambda: worker_of(server).num_threads() > POLLS, "every call has its thread", server.process)
        server.process.signal(signal.SIGTERM)
        answers = [answer(sock) for sock in polls]
        assert server.process.wait(20) == 0
    assert {status for status, _, _ in answers} == {200, 204}
    assert {headers["connection"] for _, headers, _ in answers} == {"close"}
    server.start_again()
    assert executed(farm, server, agent)
    assert agent.alive


def test_draining_answers_who_is_there_and_refuses_who_comes(farm: Farm):
    server = farm.server()
    body = json.dumps({"database": "app", "environment": "production", "detail": "SELECT 1"}).encode()
    with connection(server) as late, connection(server) as upload:
        late.sendall(b"GET /ready HTTP/1.1\r\nHost: dbward\r\n")  # not finished yet
        upload.sendall(
            f"POST /api/requests HTTP/1.1\r\nHost: dbward\r\nAuthorization: Bearer {server.admin_token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert status_of(f"{server.url}/ready") == 200  # both are accepted before this one
        server.process.signal(signal.SIGTERM)
        farm.until(lambda: refused(server), "new connections are refused", server.process)
        late.sendall(b"\r\n")
        status, headers, said = answer(late)
        assert (status, said) == (503, {"status": "draining"})
        assert headers["connection"] == "close"
        upload.sendall(body)
        status, _, said = answer(upload)
        assert status in {201, 503}  # it may have been read before the signal
        assert server.process.wait(40) == 0


def test_ctrl_c_and_sighup(farm: Farm):
    server = farm.server()
    server.process.signal(signal.SIGHUP)
    farm.until(lambda: "nothing has changed" in server.process.log(), "it has read its file", server.process)
    assert status_of(f"{server.url}/ready") == 200
    worker = worker_of(server)
    server.process.signal(signal.SIGINT)
    worker.send_signal(signal.SIGINT)  # as a terminal does
    assert server.process.wait() == 0
    assert "Traceback" not in server.process.log()


def test_a_killed_master_takes_its_worker_along_and_a_new_server_starts(farm: Farm, state: State):
    server = farm.server(state_url=state.url if state.dialect == "postgresql" else None)
    request_id = pending_request(server)
    worker = worker_of(server)
    server.process.signal(signal.SIGKILL)
    server.process.wait()
    worker.wait(20)
    server.start_again()
    assert call("GET", f"{server.url}/api/requests/{request_id}", server.admin_token)[0] == 200


def test_a_killed_worker_is_replaced(farm: Farm, state: State):
    server = farm.server(state_url=state.url if state.dialect == "postgresql" else None)
    request_id = pending_request(server)
    worker = worker_of(server)
    worker.kill()
    farm.until(lambda: not worker.is_running(), "the worker is gone", server.process)
    farm.until(lambda: status_of(f"{server.url}/ready") == 200, "it serves again", server.process)
    assert worker_of(server).pid != worker.pid
    assert call("GET", f"{server.url}/api/requests/{request_id}", server.admin_token)[0] == 200
    assert server.process.terminate() == 0


def test_what_is_not_http_gets_the_same_error_shape(farm: Farm):
    server = farm.server()
    with connection(server) as sock:
        sock.sendall(b"GARBAGE\r\n\r\n")
        status, headers, said = answer(sock)
    assert (status, said) == (
        400,
        {"error": "the request is not valid HTTP", "code": "request.malformed", "hint": None},
    )
    assert "x-dbward-version" in headers
    assert "Traceback" not in server.process.log()


def test_an_upload_cut_short_is_not_an_error_of_the_server(farm: Farm):
    server = farm.server()
    for framing in ("Content-Length: 500", "Transfer-Encoding: chunked"):
        with connection(server) as sock:
            sock.sendall(
                f"POST /api/requests HTTP/1.1\r\nHost: dbward\r\nAuthorization: Bearer {server.admin_token}\r\n"
                f"Content-Type: application/json\r\n{framing}\r\n\r\n".encode()
                + (b'{"a' if "500" in framing else b"ff\r\nabc")
            )
            sock.shutdown(socket.SHUT_WR)
            sock.recv(4096)
    assert status_of(f"{server.url}/ready") == 200
    assert "Traceback" not in server.process.log()


def test_an_oversized_upload_is_refused_while_it_is_sent(farm: Farm):
    server = farm.server()
    client = HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(4096):
            sent += 65536
            yield b"x" * 65536

    headers = {"Authorization": f"Bearer {server.admin_token}", "Content-Type": "application/json"}
    with closing(client):
        try:
            client.request("POST", "/api/requests", endless(), headers, encode_chunked=True)
            status = client.getresponse().status
        except ConnectionError:
            status = 413  # cut off before it had read the answer
    assert status == 413
    assert worker_of(server).memory_info().rss < 400 * 2**20


def test_who_sends_too_much_before_it_listens_still_gets_the_answer(farm: Farm):
    server = farm.server()
    size = 16 * 2**20  # more than fits into the buffers between the two
    headers = {"Authorization": f"Bearer {server.admin_token}", "Content-Type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
        client.request("POST", "/api/requests", b"x" * size, headers)
        assert client.getresponse().status == 413
