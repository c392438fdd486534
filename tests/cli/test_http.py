"""The API client against a server that answers as told, over real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dbward import errors
from dbward.cli.resultset import fetch
from dbward.client.http import ApiClient, part
from dbward.client.submit import submit

Answer = Callable[[BaseHTTPRequestHandler, int], None]


def answer(status: int, body: bytes, kind: str = "application/json", **headers: str) -> Answer:
    def respond(handler: BaseHTTPRequestHandler, _count: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@contextmanager
def server(respond: Answer) -> Iterator[tuple[ApiClient, list[str]]]:
    """A client of a server that answers with `respond`, which is told how many calls came before; and the calls."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            calls.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            respond(self, len(calls) - 1)

        do_POST = do_GET  # noqa: N815 - the name http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with ApiClient(f"http://127.0.0.1:{httpd.server_address[1]}", "dbw_x", version="1") as client:
            yield client, calls
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def test_parameters_and_the_version() -> None:
    with server(answer(200, b'{"a": 1}', x_dbward_version="9.9")) as (client, calls):
        assert client.get("/api/x", {"b": True, "n": None, "t": "a b&c"}) == {"a": 1}
        assert client.server_version == "9.9"
    assert calls == ["GET /api/x?b=true&t=a+b%26c Bearer dbw_x"]


def test_a_path_segment_stays_one() -> None:
    assert part("../a/b?c#d é") == "..%2Fa%2Fb%3Fc%23d%20%C3%A9"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.Invalid),
        (401, errors.Unauthorized),
        (403, errors.Refused),
        (404, errors.Missing),
        (409, errors.Conflict),
        (410, errors.Gone),
        (413, errors.TooLarge),
        (422, errors.Invalid),
        (429, errors.RateLimited),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
        (418, errors.DbwardError),
    ],
)
def test_errors_are_our_own(status: int, expected: type[errors.DbwardError]) -> None:
    body = json.dumps({"error": "no", "code": "some.code", "hint": "try", "detail": {"a": 1}}).encode()
    with server(answer(status, body)) as (client, _), pytest.raises(expected) as e:
        client.post("/api/x", {})
    assert type(e.value) is expected
    assert (e.value.message, e.value.code, e.value.hint, e.value.detail) == ("no", "some.code", "try", {"a": 1})


def test_a_refusal_says_why() -> None:
    body = json.dumps({"error": "forbidden", "code": "forbidden", "hint": "not your request"}).encode()
    with server(answer(403, body)) as (client, _), pytest.raises(errors.Refused) as e:
        client.get("/api/x")
    assert (e.value.message, e.value.hint) == ("forbidden: not your request", None)


@pytest.mark.parametrize("body", [b"<html>\n\n  Bad   gateway</html>", b"[]", b'{"error": 5}'])
def test_errors_of_a_proxy(body: bytes) -> None:
    with server(answer(502, body, "text/html")) as (client, _), pytest.raises(errors.Unavailable) as e:
        client.get("/api/x")
    assert e.value.code == "server_error"
    assert "HTTP 502" in e.value.message
    assert "\n" not in e.value.message


@pytest.mark.parametrize("respond", [answer(200, b"<html>"), answer(302, b"", location="http://elsewhere.example/")])
def test_what_is_not_dbward(respond: Answer) -> None:
    with server(respond) as (client, calls), pytest.raises(errors.Unavailable, match="not one of a dbward server"):
        client.get("/api/x")
    assert len(calls) == 1


def hang_up(handler: BaseHTTPRequestHandler, _count: int) -> None:
    handler.close_connection = True


def test_a_lost_answer_was_sent_and_a_refused_connection_was_not(free_port: int) -> None:
    with server(hang_up) as (client, _), pytest.raises(errors.Unavailable) as lost:
        client.post("/api/x", {})
    with ApiClient(f"http://127.0.0.1:{free_port}", None) as client, pytest.raises(errors.Unavailable) as refused:
        client.get("/api/x")
    assert lost.value.detail == {"sent": True}
    assert refused.value.detail == {"sent": False}
    assert lost.value.code == refused.value.code == "network_error"


KEYED = {"detail": "SELECT 1", "idempotency_key": "k"}
DRAINING = b'{"error": "draining", "code": "service_unavailable", "hint": null}'
DEFECT = b'{"error": "defect", "code": "internal_error", "hint": null}'


@pytest.mark.parametrize("outage", [hang_up, answer(502, b"<html>", "text/html"), answer(503, DRAINING)])
def test_a_submission_is_repeated_until_it_is_answered(outage: Answer) -> None:
    def respond(handler: BaseHTTPRequestHandler, count: int) -> None:
        (outage if count < 2 else answer(201, b'{"id": "r"}'))(handler, count)

    with server(respond) as (client, calls):
        assert submit(client, KEYED) == {"id": "r"}
    assert len(calls) == 3


@pytest.mark.parametrize(
    "decided", [answer(500, DEFECT), answer(500, b"<html>"), answer(200, b"<html>"), answer(409, b"{}")]
)
def test_a_submission_is_not_repeated_when_that_would_not_help(decided: Answer) -> None:
    with server(decided) as (client, calls), pytest.raises(errors.DbwardError):
        submit(client, KEYED)
    assert len(calls) == 1


def test_a_submission_is_given_up_at_once_where_nobody_listens_and_in_the_end_elsewhere(free_port: int) -> None:
    with ApiClient(f"http://127.0.0.1:{free_port}", None) as client, pytest.raises(errors.Unavailable):
        submit(client, KEYED, patience_secs=3600)
    with server(answer(502, b"")) as (client, calls), pytest.raises(errors.Unavailable, match="502"):
        submit(client, KEYED, patience_secs=0)
    assert len(calls) == 1
    with server(hang_up) as (client, calls), pytest.raises(ValueError, match="idempotency key"):
        submit(client, {"detail": "SELECT 1"})
    assert calls == []


ENVELOPE = json.dumps(
    {"success": True, "result_data": {"columns": [{"name": "a", "key": "a"}], "rows": [{"a": i} for i in range(50)]}}
).encode()


def test_a_broken_download_is_repeated() -> None:
    def respond(handler: BaseHTTPRequestHandler, count: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(ENVELOPE)))
        handler.end_headers()
        handler.wfile.write(ENVELOPE if count == 2 else ENVELOPE[: 100 * (count + 1)])
        handler.close_connection = True

    with server(respond) as (client, calls):
        result = fetch(client, "/x")
        assert result is not None
        assert [row["a"] for row in result.rows()] == list(range(50))
        result.close()
    assert len(calls) == 3


def test_a_download_that_always_breaks_is_given_up() -> None:
    with server(answer(200, ENVELOPE[:-1])) as (client, calls), pytest.raises(errors.Unavailable):
        fetch(client, "/x")
    assert len(calls) == 3


def test_no_result_yet_and_no_result_at_all() -> None:
    with server(answer(204, b"")) as (client, _):
        assert fetch(client, "/x") is None
    gone = json.dumps({"error": "gone: x", "code": "result.expired", "hint": None}).encode()
    with server(answer(410, gone)) as (client, calls), pytest.raises(errors.Gone):
        fetch(client, "/x")
    assert len(calls) == 1
