"""HTTP to errors, and which of them are worth a second try."""

from __future__ import annotations

import threading

import pytest

from dbward import errors
from dbward.client.agent_api import AgentApi, patiently
from dbward.client.wire import ClaimRequest, StartRequest
from tests.support import services
from tests.worker.tiny_server import LOSE_ANSWER, TOKEN, TinyServer

CLAIM = ClaimRequest(session="session-1", tag="t")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.Invalid),
        (422, errors.Invalid),
        (401, errors.Unauthorized),
        (403, errors.Refused),
        (404, errors.Missing),
        (409, errors.Conflict),
        (410, errors.Gone),
        (413, errors.TooLarge),
        (429, errors.RateLimited),
        (500, errors.Unavailable),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
        (301, errors.Misconfigured),
        (418, errors.Misconfigured),
    ],
)
def test_every_status_has_its_branch(
    api: AgentApi, server: TinyServer, status: int, error: type[errors.DbwardError]
) -> None:
    server.fail["claim"] = [status]
    with pytest.raises(error) as raised:
        api.claim("e1", CLAIM)
    assert type(raised.value) is error
    if status not in {301, 418}:
        assert raised.value.code == f"test.{status}"


def test_a_cut_connection_is_an_outage(api: AgentApi, server: TinyServer) -> None:
    server.fail["claim"] = [LOSE_ANSWER]
    with pytest.raises(errors.Unavailable):
        api.claim("e1", CLAIM)


def test_nobody_listening_is_an_outage_and_the_url_stays_out_of_the_text() -> None:
    api = AgentApi(f"http://127.0.0.1:{services.free_port()}", TOKEN)
    with pytest.raises(errors.Unavailable) as raised:
        api.public_key()
    assert "127.0.0.1" not in raised.value.message
    api.close()


def test_patience_covers_outages_and_lost_answers(api: AgentApi, server: TinyServer) -> None:
    server.add_job("e1", "SELECT 1")
    server.fail["claim"] = [503, LOSE_ANSWER, 429, 500]
    claimed = patiently(lambda: api.claim("e1", CLAIM), stop=threading.Event(), what="test")
    assert claimed.execution_id == "e1"
    assert server.calls["claim"] == 5


def test_a_repeated_start_keeps_its_nonce(api: AgentApi, server: TinyServer) -> None:
    server.add_job("e1", "SELECT 1")
    server.fail["start"] = [LOSE_ANSWER]
    start = StartRequest(claim_id="claim-e1", nonce="n" * 32)
    patiently(lambda: api.start("e1", start), stop=threading.Event(), what="test")
    assert server.started["e1"] == "n" * 32
    with pytest.raises(errors.Conflict):
        api.start("e1", StartRequest(claim_id="claim-e1", nonce="m" * 32))


def test_a_decision_is_not_asked_for_twice(api: AgentApi, server: TinyServer) -> None:
    with pytest.raises(errors.Missing):
        patiently(lambda: api.claim("e9", CLAIM), stop=threading.Event(), what="test")
    assert server.calls["claim"] == 1


def test_patience_ends_when_told_to_stop(api: AgentApi, server: TinyServer) -> None:
    server.fail["claim"] = [503] * 1000
    stop = threading.Event()
    stop.set()
    with pytest.raises(errors.Unavailable):
        patiently(lambda: api.claim("e1", CLAIM), stop=stop, what="test")
    assert server.calls["claim"] == 1


def test_patience_ends_with_its_limit(api: AgentApi, server: TinyServer) -> None:
    server.fail["claim"] = [503] * 1000
    with pytest.raises(errors.Unavailable):
        patiently(lambda: api.claim("e1", CLAIM), stop=threading.Event(), what="test", limit_secs=0.3)
    assert server.calls["claim"] >= 2
