"""The audit log of real servers: exported while it is written, broken off, read through a real proxy."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dbward.db.tables import audit_head
from dbward.domain.auditfile import verify_file
from dbward.runtime import open_runtime
from dbward.settings.server import load_server
from tests.support.chain import extend
from tests.support.processes import DBWARD, POLICY, Farm, Server

LONG = 40_000
"""Events: several times what fits between a server and a client that does not read."""


@contextmanager
def asked(
    server: Server, path: str, *, source: str = "127.0.0.1", **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60, source_address=(source, 0))
    with closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {server.admin_token}", **headers})
        yield connection.getresponse()


def events(server: Server, query: str) -> list[dict[str, Any]]:
    with asked(server, f"/api/audit/events?{query}") as answer:
        assert answer.status == 200
        found: list[dict[str, Any]] = json.loads(answer.read())["events"]
        return found


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_an_export_that_cannot_be_finished_is_no_complete_answer(farm: Farm, postgres_url: str, form: str) -> None:
    server = farm.server(state_url=postgres_url)
    rt = open_runtime(load_server(server.config))
    with closing(rt):
        extend(rt, LONG)
        with asked(server, f"/api/audit/export?format={form}") as answer:
            assert answer.status == 200
            begun = answer.read(1000)
            # What a purge by another replica looks like, in the middle of it.
            rt.store.write(lambda tx: tx.conn.execute(update(audit_head).values(first_seq=LONG)))
            with pytest.raises(http.client.IncompleteRead) as caught:
                answer.read()
    text = begun + caught.value.partial
    assert text.splitlines()[-1].startswith(b'{"audit_export_incomplete"' if form == "ndjson" else b"audit_export_inc")


def test_an_export_while_others_write_verifies_with_the_command(farm: Farm, postgres_url: str, tmp_path: Path) -> None:
    server = farm.server(state_url=postgres_url)
    rt = open_runtime(load_server(server.config))
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            extend(rt, 10)

    with closing(rt):
        extend(rt, 5_000)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            env = {"DBWARD_SERVER_URL": server.url, "DBWARD_TOKEN": server.admin_token}
            export = farm.spawn("export", [*DBWARD, "audit", "export", "--output", "log.ndjson"], env=env)
            assert export.wait() == 0, export.log()
        finally:
            over.set()
            writer.join()
    file = farm.dir / "log.ndjson"
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("rb") as lines:
        verdict, head = verify_file(lines, rt.keys.audit_keyring)
    assert (verdict.valid, verdict.total_events) == (True, head.seq)
    argv = [*DBWARD, "audit", "verify", "--file", str(file), "--keys", str(server.state_dir / "audit-keys.json")]
    verify = farm.spawn("verify", argv)  # without a server, and without a token
    assert verify.wait() == 0, verify.log()
    assert "The chain is whole" in verify.log()


def test_an_export_that_broke_off_leaves_no_file(farm: Farm, postgres_url: str) -> None:
    server = farm.server(state_url=postgres_url)
    rt = open_runtime(load_server(server.config))
    with closing(rt):
        extend(rt, LONG)
        pipe = farm.dir / "slow"
        os.mkfifo(pipe)
        env = {"DBWARD_SERVER_URL": server.url, "DBWARD_TOKEN": server.admin_token}
        export = farm.spawn("export", [*DBWARD, "audit", "export", "--output", str(pipe)], env=env)
        with pipe.open("rb") as out:
            out.read(1000)
            rt.store.write(lambda tx: tx.conn.execute(update(audit_head).values(first_seq=LONG)))
            out.read()
        assert export.wait() == 1
    assert "Error" in export.log()


# --- whose address ----------------------------------------------------------------------------------------------------


class Proxy(BaseHTTPRequestHandler):
    """Does what every reverse proxy does with `X-Forwarded-For`: appends whoever called it."""

    port = 0

    def do_GET(self) -> None:
        before = self.headers.get("X-Forwarded-For")
        chain = f"{before}, {self.client_address[0]}" if before else self.client_address[0]
        headers = {"Authorization": self.headers["Authorization"], "X-Forwarded-For": chain}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as behind:
            behind.request("GET", self.path, headers=headers)
            answer = behind.getresponse()
            body = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what matters."""


@pytest.fixture
def proxied(farm: Farm) -> Iterator[tuple[Server, int]]:
    """A server that trusts the proxy at 127.0.0.1, and the proxy's port."""
    server = farm.server(config=f'trusted_proxies = ["127.0.0.1"]\n{POLICY}')
    Proxy.port = server.port
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield server, proxy.server_port
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_the_record_holds_the_client_behind_a_trusted_proxy_and_no_forgery(proxied: tuple[Server, int]) -> None:
    server, port = proxied
    forged = {"Authorization": "Bearer dbw_" + "0" * 32, "X-Forwarded-For": "6.6.6.6"}
    for number, via in enumerate((port, server.port)):
        source = (f"127.0.0.{number + 2}", 0)
        with closing(http.client.HTTPConnection("127.0.0.1", via, timeout=60, source_address=source)) as connection:
            connection.request("GET", "/api/me", headers=forged)
            assert connection.getresponse().status == 401
    direct, through = events(server, "event_type=auth.failure")
    assert [through[key] for key in ("peer_ip", "client_ip", "client_ip_source")] == ["127.0.0.1", "127.0.0.2", "xff"]
    assert [direct[key] for key in ("peer_ip", "client_ip", "client_ip_source")] == ["127.0.0.3", "127.0.0.3", "peer"]
    assert [event["id"] for event in events(server, "client_ip=127.0.0.2")] == [through["id"]]
