"""What a body must be, and the one shape of every error."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from dbward import VERSION
from tests.conftest import State
from tests.web.conftest import DEVELOPMENT, PRODUCTION

JSON = "application/json"
GOOD = json.dumps(PRODUCTION)


@pytest.fixture
def state(tmp_path: Path) -> State:
    """One kind is enough here: what is tested happens before the store is asked."""
    return State("sqlite", f"sqlite:///{tmp_path / 'state.db'}")


def envelope(answer, status, code):
    assert answer.status_code == status, answer.get_data(as_text=True)
    assert answer.content_type == JSON
    assert answer.headers["x-dbward-version"] == VERSION
    assert set(answer.json) >= {"error", "code", "hint"}
    assert answer.json["code"] == code
    return answer.json


@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        ("{", JSON, 400, "request.malformed"),
        ("", JSON, 400, "request.malformed"),
        ("[]", JSON, 400, "request.malformed"),
        ('"text"', JSON, 400, "request.malformed"),
        (b"\xff{}", JSON, 400, "request.malformed"),
        ('{"detail": "\\ud800"}', JSON, 400, "request.malformed"),
        ('{"detail": NaN}', JSON, 400, "request.malformed"),
        ("[" * 5000, JSON, 400, "request.malformed"),
        (GOOD.replace("SELECT 1", "SELECT \\u0000"), JSON, 400, "validation.failed"),
        (GOOD[:-1] + ', "metadata": {"a": [{"\\u0000": 1}]}}', JSON, 400, "validation.failed"),
        (GOOD[:-1] + ', "metadata": {"a": 1e999}}', JSON, 400, "validation.failed"),
        (GOOD, None, 415, "request.media_type"),
        (GOOD, "text/plain", 415, "request.media_type"),
        ("detail=SELECT 1", "application/x-www-form-urlencoded", 415, "request.media_type"),
        ("{}", JSON, 422, "validation.failed"),
        (GOOD[:-1] + ', "surprise": 1}', JSON, 422, "validation.failed"),
        (GOOD[:-1] + ', "emergency": "true"}', JSON, 422, "validation.failed"),
        (GOOD[:-1] + ', "reason": 5}', JSON, 422, "validation.failed"),
        (GOOD[:-1] + ', "metadata": []}', JSON, 422, "validation.failed"),
        (GOOD[:-1] + ', "share_with": "user:bob"}', JSON, 422, "validation.failed"),
        (GOOD.replace('"SELECT 1"', "null"), JSON, 422, "validation.failed"),
    ],
)
def test_a_wrong_body_is_refused_before_anything_happens(alice, data, content_type, status, code):
    envelope(alice.post("/api/requests", data=data, content_type=content_type), status, code)
    assert alice.get("/api/requests").json["total"] == 0


def test_every_mistake_is_named_and_no_value_repeated(alice):
    answer = alice.post("/api/requests", {**PRODUCTION, "detail": ["s3cret"], "reason": 5, "surprise": "s3cret"})
    said = envelope(answer, 422, "validation.failed")
    assert {"detail", "reason", "surprise"} <= set(said["error"].replace(":", " ").split())
    assert "s3cret" not in answer.get_data(as_text=True)


def test_a_body_over_the_limit_is_refused(alice, rt):
    huge = b'{"detail": "' + b"x" * rt.settings.http.max_body_bytes + b'"}'
    said = envelope(alice.post("/api/requests", data=huge, content_type=JSON), 413, "payload.too_large")
    assert said["error"].startswith("payload too large: ")


def test_a_body_without_a_length_is_cut_off_at_the_limit(alice, rt):
    class Endless(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.given += len(buffer)
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    stream = Endless()
    answer = alice.post(
        "/api/requests",
        content_type=JSON,
        environ_overrides={"wsgi.input": stream, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    envelope(answer, 413, "payload.too_large")
    assert stream.given <= rt.settings.http.max_body_bytes + 1024 * 1024


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=ten",
        "limit=",
        "offset=-5",
        "surprise=1",
        "pending_for_me=maybe",
        "limit=1&limit=2",
        "since=now",
    ],
)
def test_a_wrong_query_is_400(alice, query):
    said = envelope(alice.get(f"/api/requests?{query}"), 400, "request.malformed")
    assert query.partition("=")[0] in said["error"]


@pytest.mark.parametrize("query", ["wait=abc", "wait=-1", "wait=1.5"])
def test_a_wrong_wait_is_400(alice, query):
    made = alice.post("/api/requests", PRODUCTION).json
    envelope(alice.get(f"/api/requests/{made['id']}?{query}"), 400, "request.malformed")


@pytest.mark.parametrize("path", ["/api/requests/a%00b", "/api/requests?user=a%00b", "/api/audit/events?%00=1"])
def test_nul_in_a_path_or_query_is_400(caller, path):
    envelope(caller("olga").get(path), 400, "validation.failed")


@pytest.mark.parametrize("verb", ["cancel", "resume"])
@pytest.mark.parametrize(
    "sent", [{}, {"content_type": JSON}, {"data": "", "content_type": JSON}, {"data": "{}", "content_type": JSON}]
)
def test_cancel_and_resume_need_no_body(alice, verb, sent):
    made = alice.post("/api/requests", PRODUCTION).json
    answer = alice.post(f"/api/requests/{made['id']}/{verb}", **sent)
    if verb == "cancel":
        assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    else:
        envelope(answer, 409, "request.conflict")  # not approved yet: the body was fine


def test_an_optional_body_is_still_checked(alice):
    made = alice.post("/api/requests", PRODUCTION).json
    path = f"/api/requests/{made['id']}/cancel"
    envelope(alice.post(path, {"surprise": 1}), 422, "validation.failed")
    envelope(alice.post(path, data="reason=x", content_type="text/plain"), 415, "request.media_type")
    envelope(alice.post(path, data="{", content_type=JSON), 400, "request.malformed")


def test_kinds_have_their_words(alice, bob):
    assert envelope(alice.get("/api/requests/nope"), 404, "request.not_found")["error"].startswith("not found: ")
    made = alice.post("/api/requests", PRODUCTION).json
    alice.post(f"/api/requests/{made['id']}/cancel")
    again = envelope(alice.post(f"/api/requests/{made['id']}/cancel"), 409, "request.conflict")
    assert again["error"].startswith("conflict: ")
    unknown = alice.post("/api/requests", {**DEVELOPMENT, "database": "nowhere"})
    assert unknown.status_code == 400
    assert unknown.json["error"].startswith("validation: ")
    assert "not registered" in unknown.json["error"]
    forbidden = envelope(bob.post("/api/requests", DEVELOPMENT), 403, "forbidden")
    assert forbidden["error"] == "forbidden"
    assert forbidden["hint"]


def test_a_bug_is_a_500_that_says_nothing(app, alice, caplog):
    @app.get("/api/agents/bug")
    def bug():
        raise RuntimeError("s3cret")

    with caplog.at_level(logging.ERROR, logger="dbward.web"):
        answer = alice.get("/api/agents/bug")
    envelope(answer, 500, "internal_error")
    assert "s3cret" not in answer.get_data(as_text=True)
    assert any(record.exc_info for record in caplog.records)


def test_times_are_printed_in_utc_with_z(alice):
    made = alice.post("/api/requests", PRODUCTION).json
    shown = alice.get(f"/api/requests/{made['id']}").json
    assert shown["created_at"].endswith("Z")
    assert made["expires_at"].endswith("Z")
