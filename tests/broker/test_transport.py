"""The transport's own parts: addresses, TLS, kept connections, forks, and what a session remembers."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kombu import Connection

from dbward.broker import transport
from dbward.broker.failures import BrokerRefused, BrokerUnavailable, TokenRefused
from dbward.broker.session import Session
from dbward.broker.source import Poll
from dbward.broker.source_http import HttpSource
from dbward.broker.source_sql import SqlSource
from dbward.broker.wire import Delivery, Fetched, Group, Reject, Release, Settle, Welcome
from dbward.domain.model import Target
from dbward.errors import Missing, Refused, Unauthorized, Unavailable
from dbward.runtime import Runtime
from tasks.app import make_app
from tests.broker.conftest import QUEUE, Clock, open_rt, serving, token_of

TOKEN = "dbw_" + "5" * 32
WELCOME = json.dumps({"protocol": 1, "lease_ms": 60_000, "max_wait_ms": 25_000})


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "url", "tls"),
    [
        ("http://server:3000", "http://server:3000", False),
        ("http://server", "http://server:80", False),
        ("https://dbward.example.com", "https://dbward.example.com:443", True),
        ("https://dbward.example.com:8443/base/path", "https://dbward.example.com:8443/base/path", True),
        ("http://[::1]:3000", "http://[::1]:3000", False),
        ("http://[fd00::2]", "http://[fd00::2]:80", False),
    ],
)
def test_where_a_broker_url_leads(server: str, url: str, tls: bool) -> None:
    connection = Connection(transport.broker_url(server, "dbw_a/b:c@d"))
    opened = connection.transport
    assert isinstance(opened, transport.TlsTransport) is tls
    source = opened.source
    assert isinstance(source, HttpSource)
    host = f"[{source._host}]" if ":" in source._host else source._host
    assert f"{'https' if source._tls else 'http'}://{host}:{source._port}{source._path}" == f"{url}/api/broker/"
    assert source._headers["Authorization"] == "Bearer dbw_a/b:c@d"


def test_the_token_is_masked_wherever_kombu_prints_it() -> None:
    app = make_app(server_url="http://server:3000", token=TOKEN, transport_options={"session": "s"})
    connection = app.connection_for_read()
    shown = [connection.as_uri(), str(connection), repr(connection), json.dumps(connection.info(), default=str)]
    shown += [app.conf.humanize(with_defaults=True, censored=True)]
    info = connection.info()
    info.pop("password")  # `inspect stats` does so, too
    assert TOKEN not in json.dumps(info, default=str)
    assert all(TOKEN not in text for text in shown[:3] + shown[4:])


def test_another_celery_is_refused_at_once() -> None:
    program = "import celery; celery.__version__ = '5.6.3'; import tasks.app"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=False)
    assert "Celery 5.6.3 is installed; dbward's transport works with 5.7.x only" in done.stderr


# --- over the wire ----------------------------------------------------------------------------------------------------


class Scripted:
    """An HTTP server that answers as it is told, and counts connections."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str, dict[str, str]]] = []
        self.connections: set[Any] = set()
        self.asked: list[str] = []
        self.close_after_answer = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.connections.add(self.client_address)
                outer.asked.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body, headers = outer.answers.pop(0) if outer.answers else (200, WELCOME, {})
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())
                # Without a word in the answer, as a proxy or a killed server does.
                self.close_connection = outer.close_after_answer

            def log_message(self, *args: Any) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.httpd.shutdown()
    thread.join()
    server.httpd.server_close()


@pytest.fixture
def source(scripted: Scripted) -> Iterator[HttpSource]:
    source = HttpSource(scripted.url, TOKEN)
    yield source
    source.close()


def test_connections_are_kept(scripted: Scripted, source: HttpSource) -> None:
    for _ in range(5):
        source.hello()
    assert len(scripted.connections) == 1


def test_a_kept_connection_that_the_server_has_closed_is_not_used(scripted: Scripted, source: HttpSource) -> None:
    scripted.close_after_answer = True
    for _ in range(5):
        source.hello()
    assert len(scripted.connections) == len(scripted.asked) == 5, "each was asked once, and none twice"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, '{"error": "x", "code": "unauthorized"}', Unauthorized),
        (403, '{"error": "forbidden", "code": "forbidden", "hint": "why"}', Refused),
        (404, '{"error": "x", "code": "broker.unknown_queue", "detail": {"queue": "q"}}', Missing),
        (404, "<html>no backend</html>", Unavailable),  # a proxy's words, not ours
        (200, "<html>hello</html>", Unavailable),
        (502, "", Unavailable),
        (503, '{"error": "x", "code": "service_unavailable"}', Unavailable),
        (500, '{"error": "x", "code": "internal_error"}', Unavailable),
    ],
)
def test_what_an_answer_means(
    scripted: Scripted, source: HttpSource, status: int, body: str, error: type[Exception]
) -> None:
    scripted.answers = [(status, body, {"Retry-After": "7"})]
    with pytest.raises(error) as raised:
        source.hello()
    if status == 503:
        assert raised.value.detail == {"retry_after_secs": 7}  # type: ignore[attr-defined]
    if status == 403:
        assert str(raised.value) == "why"


def test_nobody_at_home_is_an_outage(free_port: int) -> None:
    with pytest.raises(Unavailable):
        HttpSource(f"http://127.0.0.1:{free_port}", TOKEN).hello()


def test_kombu_is_told_in_its_own_words(scripted: Scripted) -> None:
    url = transport.broker_url(scripted.url, TOKEN)
    for status, code, error in [
        (401, "unauthorized", TokenRefused),
        (403, "forbidden", BrokerRefused),
        (503, "service_unavailable", BrokerUnavailable),
    ]:
        scripted.answers = [(status, json.dumps({"error": "x", "code": code}), {})] * 9  # kombu tries an outage again
        connection = Connection(url)
        with pytest.raises(error):
            connection.connect()
        connection.release()
    assert TokenRefused not in transport.Transport.connection_errors + transport.Transport.channel_errors
    assert issubclass(BrokerUnavailable, OSError)


def test_a_forked_child_uses_sockets_of_its_own(scripted: Scripted, source: HttpSource) -> None:
    source.hello()
    child = os.fork()
    if child == 0:
        try:
            source.hello()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    source.hello()
    assert len(scripted.asked) == 3
    assert len(scripted.connections) == 2


# --- TLS --------------------------------------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = directory / "cert.pem", directory / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return pem, secret


@pytest.fixture
def rt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Runtime]:
    rt = open_rt(f"sqlite:///{tmp_path / 'state.db'}", tmp_path, monkeypatch, clock)
    yield rt
    rt.close()


def test_tls_is_verified(rt: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, secret = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    with serving(rt, context) as address:
        stranger = HttpSource(address, token_of(rt, "agent"))
        with pytest.raises(Unavailable, match="certificate"):
            stranger.hello()
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        trusted = HttpSource(address, token_of(rt, "agent"))
        assert trusted.hello().protocol == 1
        poll = Session(trusted, "tls").poll([Group(queues=[QUEUE])], 20)
        assert poll.result(0.3) is None
        publish(rt, "e")
        found = poll.result(20)
        assert found is not None
        assert [d.message["headers"]["id"] for d in found.messages] == ["e"]
        trusted.close()


def publish(rt: Runtime, execution_id: str) -> None:
    rt.store.write(
        lambda tx: rt.publisher.execution(
            tx, target=Target("app", "development"), request_id="r", execution_id=execution_id
        )
    )


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_job_is_the_message_that_celery_sends(rt: Runtime) -> None:
    publish(rt, "e")
    ours = Session(rt_source(rt), "s").poll([Group(queues=[QUEUE])], 0).result(5)
    assert ours is not None
    [delivery] = ours.messages

    app = Celery("other", broker="memory://", set_as_current=False)
    app.conf.update(task_ignore_result=True)
    with app.connection_for_write() as connection:
        app.send_task(
            "dbward.execute",
            kwargs={"request_id": "r", "execution_id": "e"},
            task_id="e",
            queue=QUEUE,
            connection=connection,
        )
        theirs = connection.default_channel._get(QUEUE)
    assert delivery.message.keys() == theirs.keys()
    changing = {"origin", "argsrepr"}
    assert {k: v for k, v in delivery.message["headers"].items() if k not in changing} == {
        k: v for k, v in theirs["headers"].items() if k not in changing
    }
    assert json.loads(delivery.message["body"])[1] == {"request_id": "r", "execution_id": "e"}
    assert delivery.message["properties"].keys() == theirs["properties"].keys()


def rt_source(rt: Runtime) -> Any:
    return SqlSource(rt.store, rt.hub, rt.now)


# --- sessions ---------------------------------------------------------------------------------------------------------


class Away:
    """A source that can be out of reach; it keeps what it was told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.acked: list[str] = []
        self.rejected: list[str] = []
        self.fetches: list[list[str]] = []
        self.extended = threading.Event()
        self.released = 0

    def _reached(self) -> None:
        if self.error is not None:
            raise self.error

    def hello(self) -> Welcome:
        return Welcome.model_validate_json(WELCOME)

    def ack(self, ask: Settle) -> list[str]:
        self._reached()
        self.acked += ask.tags
        return []

    def reject(self, ask: Reject) -> list[str]:
        self._reached()
        self.rejected.append(ask.tag)
        return []

    def extend(self, ask: Settle) -> list[str]:
        self._reached()
        self.extended.set()
        return []

    def release(self, ask: Release) -> None:
        self._reached()
        self.released += 1

    def poll(self, ask: Any) -> Poll:
        self._reached()
        self.fetches.append(ask.have)
        return None  # type: ignore[return-value]


def holding(source: Any, *tags: str) -> Session:
    session = Session(source, "s")
    messages = [Delivery(queue=QUEUE, tag=tag, deliveries=1, message={}) for tag in tags]
    session.received(Fetched(messages=messages))
    return session


@pytest.mark.parametrize("error", [Unavailable("away"), Unauthorized("expired")], ids=["outage", "token"])
def test_an_acknowledgement_is_kept_until_it_was_heard(error: Exception) -> None:
    away = Away()
    session = holding(away, "1.a", "1.b")
    away.error = error
    session.ack("1.a")
    session.reject("1.b", requeue=True)
    assert session.held == ["1.a", "1.b"], "still ours, so still renewed"
    away.error = None
    session.poll([Group(queues=[QUEUE])], 1)
    assert (away.acked, away.rejected, away.fetches) == (["1.a"], ["1.b"], [[]])
    session.close()


def test_an_acknowledgement_that_is_refused_for_good_is_not_repeated() -> None:
    away = Away()
    session = holding(away, "1.a")
    away.error = Refused("no")
    session.ack("1.a")
    assert session.held == []
    away.error = None
    session.poll([Group(queues=[QUEUE])], 1)
    assert away.acked == []
    session.close()


def test_what_is_stale_is_held_no_more() -> None:
    session = holding(Away(), "1.a", "1.b")
    session.received(Fetched(stale=["1.a"]))
    assert session.held == ["1.b"]
    session.ack("1.a")
    assert session.held == ["1.b"]
    session.close()


def test_a_keeper_renews_while_nobody_polls() -> None:
    away = Away()
    session = Session(away, "s")  # type: ignore[arg-type]
    session.lease_is(0.06)
    session.received(Fetched(messages=[Delivery(queue=QUEUE, tag="1.a", deliveries=1, message={})]))
    assert away.extended.wait(20)
    session.close()
    assert away.released == 1


def test_closing_without_a_server_does_not_fail() -> None:
    away = Away()
    session = holding(away, "1.a")
    away.error = Unavailable("away")
    session.close()
    assert session.held == []


def test_seq_grows_over_lives() -> None:
    """A process that comes back under the same id is the newer one."""
    seqs: list[int] = []
    away: Any = Away()
    away.poll = lambda ask: seqs.append(ask.seq)
    for _ in range(2):
        session = Session(away, "s")
        session.poll([], 0)
        session.poll([], 0)
    assert seqs == sorted(set(seqs))


def test_a_broken_callback_is_no_reason_to_lose_the_rest(scripted: Scripted) -> None:
    handed: list[str] = []
    message = {"body": "[]", "headers": {}, "properties": {}, "content-type": "application/json"}
    answer = [{"queue": "q.reply.celery.pidbox", "tag": None, "deliveries": 1, "message": message} for _ in range(2)]
    connection = Connection(transport.broker_url(scripted.url, TOKEN))
    connection.connect()
    channel = connection.channel()
    scripted.answers = [(200, json.dumps({"messages": answer, "stale": []}), {})]

    def consume(received: Any) -> None:
        handed.append(received.delivery_tag)
        if len(handed) == 1:
            raise ValueError("the consumer's own mistake")

    channel.basic_consume("q.reply.celery.pidbox", True, consume, "tag")
    with pytest.raises(ValueError, match="own mistake"):
        connection.drain_events(timeout=5)
    connection.drain_events(timeout=5)
    assert len(handed) == 2
    connection.release()
