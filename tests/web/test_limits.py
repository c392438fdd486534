"""What one token may ask for, in a minute and at once: on one server, and on several that share a state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from dbward import ids
from dbward.db.tables import allowances as table
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import bootstrap
from dbward.services.allowances import Exchange, exchange
from dbward.settings.server import ServerSettings
from dbward.settings.server_limits import Limits
from tests.web.conftest import PRODUCTION, Caller, held
from web.app import create_app

LIMITS = Limits(reads_per_minute=5, writes_per_minute=3, polls_per_token=2, polls_per_agent_token=3)


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, 0, 15, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(settings: ServerSettings) -> ServerSettings:
    return replace(settings, limits=LIMITS)


@pytest.fixture
def rt(settings: ServerSettings, clock: Clock) -> Iterator[Runtime]:
    bootstrap.prepare(settings)
    rt = open_runtime(settings, now=clock)
    yield rt
    rt.close()


def limited(rt: Runtime, limit: str) -> float | None:
    return rt.metrics.registry.get_sample_value("dbward_rate_limited_total", {"limit": limit})


def test_a_token_gets_its_calls_in_a_minute_and_is_told_when_it_gets_more(rt, alice, bob, clock):
    answers = [alice.get("/api/me") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert [answer.headers["RateLimit"] for answer in answers[:2]] == ['"reads";r=4;t=45', '"reads";r=3;t=45']
    refused = answers[-1]
    assert refused.json["code"] == "rate_limited"
    assert refused.headers["Retry-After"] == "45"
    assert refused.headers["RateLimit"] == '"reads";r=0;t=45'
    assert refused.headers["RateLimit-Policy"] == '"reads";q=5;w=60'
    assert limited(rt, "reads") == 1
    assert bob.get("/api/me").status_code == 200, "others have their own"
    clock.at += timedelta(seconds=44)
    assert alice.get("/api/me").status_code == 429
    clock.at += timedelta(seconds=1)
    assert alice.get("/api/me").status_code == 200


def test_reads_and_writes_are_counted_apart(alice):
    made = [alice.post("/api/requests", PRODUCTION).status_code for _ in range(4)]
    assert made == [201, 201, 201, 429]
    assert alice.get("/api/me").status_code == 200


def test_what_is_not_there_is_counted_too(alice):
    answers = [alice.get("/api/nothing").status_code for _ in range(6)]
    assert answers == [404] * 5 + [429]


def test_a_call_that_waited_is_counted_once(rt, alice, pool):
    made = alice.post("/api/requests", PRODUCTION).json
    waiting = pool.submit(alice.get, f"/api/requests/{made['id']}?wait=100")
    held(rt, 1)
    alice.post(f"/api/requests/{made['id']}/cancel")
    assert waiting.result(60).headers["RateLimit"] == '"reads";r=4;t=45'


def test_who_is_not_known_is_not_counted(rt, nobody):
    answers = [nobody.get("/api/me") for _ in range(6)]
    assert {answer.status_code for answer in answers} == {401}
    assert "RateLimit" not in answers[0].headers
    assert limited(rt, "reads") == 0


def test_agents_are_never_counted(agent, rt):
    body = {"protocol": 1}
    answers = [agent.post("/api/broker/hello", body) for _ in range(20)]
    assert 429 not in {answer.status_code for answer in answers}
    assert {agent.get("/api/public-key").status_code for _ in range(20)} == {200}
    assert limited(rt, "writes") == 0


def test_no_limit_where_the_file_says_so(settings, clock):
    bootstrap.prepare(settings)
    free = replace(settings, limits=replace(LIMITS, reads_per_minute=0))
    rt = open_runtime(free, now=clock)
    try:
        alice = Caller(create_app(Current(rt)), token_of(rt, "alice"))
        answers = [alice.get("/api/me") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert "RateLimit" not in answers[0].headers
    finally:
        rt.close()


def test_one_token_takes_its_waiting_calls_and_another_still_gets_its_own(rt, alice, caller, pool):
    made = alice.post("/api/requests", PRODUCTION).json
    path = f"/api/requests/{made['id']}"
    waiting = [pool.submit(alice.get, f"{path}?wait=100") for _ in range(2)]
    held(rt, 2)
    refused = alice.get(f"{path}?wait=100")
    assert (refused.status_code, refused.json["code"]) == (429, "polls.token_exhausted")
    assert 0 < int(refused.headers["Retry-After"]) <= 100
    assert limited(rt, "polls") == 1
    assert alice.get(path).status_code == 200, "a call that does not wait needs no place"
    others = pool.submit(caller("olga").get, f"{path}?wait=100")
    held(rt, 3)
    assert alice.post(f"{path}/cancel").status_code == 200
    assert {call.result(60).status_code for call in (*waiting, others)} == {200}
    assert rt.polls.taken == 0


def test_an_agents_token_waits_with_more(rt, agent, pool):
    def fetch(session: int) -> TestResponse:
        group = {"queues": ["job.app.development"], "prefetch": 1, "no_ack": False}
        return agent.post(
            "/api/broker/fetch", {"session": f"{session:032}", "seq": 1, "groups": [group], "wait_ms": 20_000}
        )

    waiting = [pool.submit(fetch, n) for n in range(3)]
    held(rt, 3)
    refused = fetch(4)
    assert (refused.status_code, refused.json["code"]) == (429, "polls.token_exhausted")
    assert 0 < int(refused.headers["Retry-After"]) <= 25
    rt.hub.close()
    assert {call.result(60).status_code for call in waiting} == {200}


# --- several servers --------------------------------------------------------------------------------------------------

ON_POSTGRES = pytest.mark.parametrize("state", ["postgresql"], indirect=True)


@pytest.fixture
def two(settings: ServerSettings, tmp_path: Path, clock: Clock) -> Iterator[list[Runtime]]:
    """Two servers on one PostgreSQL state, without the thread that exchanges their counts: the test does."""
    bootstrap.prepare(settings)
    second = replace(settings, state_dir=tmp_path / "second")
    shutil.copytree(settings.state_dir, second.state_dir)
    bootstrap.prepare(second)
    opened = [open_runtime(each, now=clock) for each in (settings, second)]
    yield opened
    for each in opened:
        each.close()


def rows(rt: Runtime) -> int:
    with rt.store.read() as conn:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()


@ON_POSTGRES
def test_replicas_keep_one_limit_together(two, clock):
    (here, there), processes = two, [ids.new_id(), ids.new_id()]
    alice, elsewhere = [Caller(create_app(Current(rt)), token_of(rt, "alice")) for rt in two]
    assert [alice.get("/api/me").status_code for _ in range(3)] == [200] * 3
    assert elsewhere.get("/api/me").status_code == 200
    assert rows(here) == 0, "no call writes"
    exchange(here, processes[0])
    exchange(there, processes[1])
    assert rows(here) == 2
    assert elsewhere.get("/api/me").headers["RateLimit"] == '"reads";r=0;t=45'
    assert elsewhere.get("/api/me").status_code == 429
    exchange(there, processes[1])
    assert alice.get("/api/me").status_code == 200, "it was not told yet: a second's worth more"
    exchange(here, processes[0])
    assert alice.get("/api/me").status_code == 429
    assert Caller(create_app(Current(here)), token_of(here, "bob")).get("/api/me").status_code == 200
    clock.at += timedelta(seconds=45)
    assert elsewhere.get("/api/me").headers["RateLimit"] == '"reads";r=4;t=60'


@ON_POSTGRES
def test_counts_are_shared_once_and_forgotten(two, clock):
    rt, process = two[0], ids.new_id()
    alice = Caller(create_app(Current(rt)), token_of(rt, "alice"))
    exchange(rt, process)
    assert rows(rt) == 0, "there was nothing to tell"
    for _ in range(2):
        alice.get("/api/me")
        exchange(rt, process)
    exchange(rt, process)
    with rt.store.read() as conn:
        assert conn.execute(select(table.c["count"])).scalars().all() == [2]
    clock.at += timedelta(hours=1)
    alice.get("/api/me")
    exchange(rt, process)
    assert rows(rt) == 1


@ON_POSTGRES
def test_without_a_database_each_goes_by_its_own_counts_and_shares_them_later(two):
    (rt, other), process = two, ids.new_id()
    rt.allowances.take("reads:x", 5, rt.now())
    sent = rt.allowances.unshared()
    assert rt.allowances.unshared() == sent, "nothing was learned, so it is shared again"
    exchange(rt, process)
    other.allowances.take("reads:x", 5, other.now())
    exchange(other, ids.new_id())
    assert other.allowances.take("reads:x", 5, other.now()).left == 2


@pytest.mark.parametrize("state", ["sqlite"], indirect=True)
def test_a_server_that_owns_its_state_writes_nothing(rt, alice):
    thread = Exchange(rt)
    thread.start()
    alice.get("/api/me")
    thread.stop()
    assert rows(rt) == 0


def token_of(rt: Runtime, name: str) -> str:
    return next(user.token.reveal() for user in rt.settings.users if user.id == name and user.token is not None)
