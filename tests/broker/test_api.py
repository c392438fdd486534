"""`/api/broker/*` as the people and agents of a server meet it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dbward.broker import store
from dbward.broker.source_http import HttpSource
from dbward.broker.source_sql import SqlSource
from dbward.broker.wire import (
    Bind,
    Declare,
    Depths,
    Fetch,
    Fetched,
    Group,
    OneQueue,
    Publish,
    Reject,
    Release,
    Settle,
    Unbind,
)
from dbward.client.shapes import AuditFilter, NewToken
from dbward.client.wire import PROTOCOL, AgentReport
from dbward.domain.model import Event, Principal, Target
from dbward.errors import Conflict, DbwardError, Invalid, Refused, Unauthorized, Unavailable
from dbward.runtime import Current, Runtime
from dbward.services import agents, api_tokens, audit, identity
from tests.broker.conftest import MAILBOX, QUEUE, Clock, executions, open_rt, serving, tags, token_of
from web.app import create_app

REPLY = "r1.reply.celery.pidbox"


@pytest.fixture
def rt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Runtime]:
    rt = open_rt(f"sqlite:///{tmp_path / 'state.db'}", tmp_path, monkeypatch, clock)
    yield rt
    rt.close()


@pytest.fixture
def connect(rt: Runtime) -> Iterator[Callable[[str], HttpSource]]:
    """`connect("olga")`: the broker as she reaches it; also takes a token itself."""
    with serving(rt) as address, ExitStack() as stack:

        def connect(who: str) -> HttpSource:
            source = HttpSource(address, who if who.startswith("dbw_") else token_of(rt, who))
            stack.callback(source.close)
            return source

        yield connect


def principal(rt: Runtime, who: str) -> Principal:
    token = who if who.startswith("dbw_") else token_of(rt, who)
    return identity.authenticate(rt, token, peer_ip=None, client_ip=None, source=None)


def put(rt: Runtime, *execution_ids: str, target: Target = Target("app", "development")) -> None:  # noqa: B008
    for each in execution_ids:
        rt.store.write(
            lambda tx, each=each: rt.publisher.execution(  # type: ignore[misc]
                tx, target=target, request_id="r", execution_id=each
            )
        )


def ask(
    *queues: str, session: str = "one", seq: int = 1, wait: float = 0, no_ack: bool = False, prefetch: int = 0
) -> Fetch:
    groups = [Group(queues=list(queues or (QUEUE,)), no_ack=no_ack, prefetch=prefetch)]
    return Fetch(session=session, seq=seq, groups=groups, wait_ms=int(wait * 1000))


def fetch(source: HttpSource, *queues: str, **options: Any) -> Fetched:
    poll = source.poll(ask(*queues, **options))
    found = poll.result(20)
    assert found is not None
    return found


def command(method: str, **arguments: Any) -> Publish:
    body = {"method": method, "arguments": arguments, "ticket": "t"}
    body |= {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "r1"}}
    return wrap("celery.pidbox", body)


def wrap(exchange: str, body: dict[str, Any], routing_key: str = "") -> Publish:
    message = {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"body_encoding": "utf-8"},
    }
    return Publish(exchange=exchange, routing_key=routing_key, mid=uuid.uuid4().hex, message=message)


def mailbox(agent: HttpSource) -> None:
    agent.declare(Declare(session="one", queue=MAILBOX))
    agent.bind(Bind(queue=MAILBOX, exchange="celery.pidbox", type="fanout", routing_key=""))


def reply_queue(watcher: HttpSource) -> None:
    watcher.declare(Declare(session="w", queue=REPLY))
    watcher.bind(Bind(queue=REPLY, exchange="reply.celery.pidbox", type="direct", routing_key="r1"))


def test_a_command_goes_out_and_its_answer_comes_back(connect: Callable[[str], HttpSource]) -> None:
    agent, olga = connect("agent"), connect("olga")
    mailbox(agent)
    reply_queue(olga)
    assert olga.publish(command("ping")) == 1
    [delivery] = fetch(agent, MAILBOX, no_ack=True).messages
    assert '"method":"ping"' in delivery.message["body"]
    agent.publish(wrap("reply.celery.pidbox", {"agent@one": {"ok": "pong"}}, "r1"))
    [answer] = fetch(olga, REPLY, session="w", no_ack=True).messages
    assert answer.message["body"] == '{"agent@one":{"ok":"pong"}}'


@pytest.mark.parametrize("method", ["shutdown", "revoke", "add_consumer", "conf", "hello"])
@pytest.mark.parametrize("who", ["olga", "admin"])
def test_a_refused_command_reaches_nobody_and_is_on_the_record(
    rt: Runtime, connect: Callable[[str], HttpSource], who: str, method: str
) -> None:
    agent, caller = connect("agent"), connect(who)
    mailbox(agent)
    reply_queue(caller)
    with pytest.raises(Refused, match=method):
        caller.publish(command(method))
    assert fetch(agent, MAILBOX, no_ack=True).messages == []
    wanted = AuditFilter(event_type=Event.REQUEST_REFUSED)
    [event] = audit.search(rt, principal(rt, "olga"), wanted)["events"]
    assert event["actor_id"] == principal(rt, who).subject


def test_a_requester_is_refused_everything(connect: Callable[[str], HttpSource]) -> None:
    rita = connect("rita")
    calls: list[Callable[[], object]] = [
        rita.hello,
        lambda: rita.declare(Declare(session="w", queue=REPLY)),
        lambda: rita.bind(Bind(queue=REPLY, exchange="reply.celery.pidbox", type="direct", routing_key="r1")),
        lambda: rita.unbind(Unbind(queue=REPLY, exchange="reply.celery.pidbox", routing_key="r1")),
        lambda: rita.delete(OneQueue(queue=REPLY)),
        lambda: rita.publish(command("ping")),
        lambda: fetch(rita),
        lambda: rita.ack(Settle(session="one", tags=["1.a"])),
        lambda: rita.extend(Settle(session="one", tags=["1.a"])),
        lambda: rita.reject(Reject(session="one", tag="1.a", requeue=True)),
        lambda: rita.release(Release(session="one")),
        lambda: rita.depths(Depths(queues=[QUEUE])),
    ]
    for call in calls:
        with pytest.raises(Refused):
            call()


def test_without_a_token_nothing_is_said(connect: Callable[[str], HttpSource]) -> None:
    stranger = connect("dbw_" + "0" * 32)
    with pytest.raises(Unauthorized):
        stranger.hello()
    with pytest.raises(Unauthorized):
        fetch(stranger, wait=20)


def test_a_session_belongs_to_the_token_that_opened_it(rt: Runtime, connect: Callable[[str], HttpSource]) -> None:
    put(rt, "a", "b")
    first, other = connect("agent"), connect(new_agent(rt, "second"))
    held = tags(fetch(first))
    thefts: list[Callable[[], object]] = [
        lambda: fetch(other, seq=5),
        lambda: other.ack(Settle(session="one", tags=held)),
        lambda: other.extend(Settle(session="one", tags=held)),
        lambda: other.reject(Reject(session="one", tag=held[0], requeue=True)),
        lambda: other.release(Release(session="one")),
    ]
    for theft in thefts:
        with pytest.raises(Refused, match="another token"):
            theft()
    assert other.ack(Settle(session="two", tags=held)) == held, "a tag is worth nothing in another session"
    assert first.ack(Settle(session="one", tags=held)) == []


def test_an_agent_gets_the_jobs_of_its_scopes_only(rt: Runtime, connect: Callable[[str], HttpSource]) -> None:
    put(rt, "a", target=Target("app", "production"))
    scoped = connect(new_agent(rt, "narrow", scopes=[{"database": "app", "environment": "development"}]))
    assert fetch(scoped).messages == []
    with pytest.raises(Refused):
        fetch(scoped, "job.app.production", seq=2)
    wide = connect(new_agent(rt, "wide", scopes=[{"database": "*", "environment": "production"}]))
    assert executions(fetch(wide, "job.app.production", session="wide")) == ["a"]


def new_agent(rt: Runtime, name: str, scopes: list[dict[str, str]] | None = None) -> str:
    body = NewToken.model_validate({"subject_id": name, "subject_type": "agent", "scopes": scopes})
    admin = principal(rt, "admin")
    return str(api_tokens.create_token(rt, admin, body)["token"])


def test_a_token_that_is_revoked_ends_its_polls_and_gets_nothing(
    rt: Runtime, connect: Callable[[str], HttpSource]
) -> None:
    token = new_agent(rt, "doomed")
    doomed = connect(token)
    poll = doomed.poll(ask(session="doomed", wait=20))
    assert poll.result(0.3) is None
    who = principal(rt, token)
    admin = principal(rt, "admin")
    api_tokens.revoke_token(rt, admin, who.token_id or "")
    with pytest.raises(Unauthorized):
        poll.result(20)
    put(rt, "a")
    with pytest.raises(Unauthorized):
        fetch(doomed, session="doomed", seq=2)
    assert executions(fetch(connect("agent"))) == ["a"]


def test_a_token_that_expires_while_it_waits_gets_nothing(
    rt: Runtime, connect: Callable[[str], HttpSource], clock: Clock
) -> None:
    body = {"subject_id": "brief", "subject_type": "agent", "expires_at": clock() + timedelta(seconds=60)}
    admin = principal(rt, "admin")
    brief = connect(str(api_tokens.create_token(rt, admin, NewToken.model_validate(body))["token"]))
    poll = brief.poll(ask(session="brief", wait=20))
    assert poll.result(0.3) is None
    clock.advance(61)
    put(rt, "a")
    with pytest.raises(Unauthorized):
        poll.result(20)
    assert executions(fetch(connect("agent"))) == ["a"]


def test_a_server_that_stops_hands_out_nothing_more(rt: Runtime, connect: Callable[[str], HttpSource]) -> None:
    agent = connect("agent")
    waiting = agent.poll(ask(wait=20))
    assert waiting.result(0.3) is None
    rt.hub.close()
    ended = waiting.result(20)
    assert ended is not None
    assert ended.messages == []
    put(rt, "a")
    with pytest.raises(Unavailable) as error:
        fetch(agent, seq=2)
    assert (error.value.detail or {}).get("retry_after_secs")
    with rt.store.read() as conn:
        depth = next(d for d in store.depths(conn, rt.now()) if d.queue == QUEUE)
    assert (depth.ready, depth.leased) == (1, 0)


def test_many_waiting_polls_hold_no_connection(rt: Runtime, connect: Callable[[str], HttpSource]) -> None:
    """More of them than the pool has connections: the server goes on answering, and each is woken."""
    agent = connect("agent")
    polls = [agent.poll(ask(session=f"s{n}", wait=25, prefetch=1)) for n in range(40)]
    assert [poll.result(0.02) for poll in polls] == [None] * 40
    assert agent.depths(Depths(queues=[QUEUE]))[0].ready == 0
    put(rt, *(f"e{n}" for n in range(40)))
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda poll: executions(poll.result(20) or Fetched()), polls))
    assert sorted(found) == sorted([f"e{n}"] for n in range(40))


def test_a_token_has_only_so_many_queues(
    rt: Runtime, connect: Callable[[str], HttpSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbward.services.broker.MAX_OWN_QUEUES", 3)
    olga = connect("olga")
    for n in range(3):
        olga.declare(Declare(session="w", queue=f"r{n}.reply.celery.pidbox"))
    with pytest.raises(Conflict):
        olga.declare(Declare(session="w", queue="r9.reply.celery.pidbox"))
    olga.declare(Declare(session="w", queue="r1.reply.celery.pidbox"))
    olga.delete(OneQueue(queue="r1.reply.celery.pidbox"))
    olga.declare(Declare(session="w", queue="r9.reply.celery.pidbox"))


def test_another_tokens_reply_queue_cannot_be_taken_over(connect: Callable[[str], HttpSource]) -> None:
    olga, omar = connect("olga"), connect("omar")
    reply_queue(olga)
    attempts: list[Callable[[], object]] = [
        lambda: omar.declare(Declare(session="o", queue=REPLY)),
        lambda: omar.bind(Bind(queue=REPLY, exchange="reply.celery.pidbox", type="direct", routing_key="r1")),
        lambda: omar.delete(OneQueue(queue=REPLY)),
        lambda: fetch(omar, REPLY, session="o", no_ack=True),
        lambda: omar.publish(command("ping")),  # whose answers would go to olga
    ]
    for attempt in attempts:
        with pytest.raises(Refused):
            attempt()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"session": "one"}',
        b'{"session": "one", "seq": 0, "groups": []}',
        b'{"session": "one two", "seq": 1, "groups": []}',
        b'{"session": "one", "seq": 1, "groups": [], "extra": 1}',
        b'{"session": "one", "seq": 1, "groups": [{"queues": []}]}',
        b'{"session": "one", "seq": 1, "groups": [{"queues": ["a\\u0000b"]}]}',
        b'{"session": "one", "seq": 1, "groups": [{"queues": ["' + b"a" * 300 + b'"]}]}',
        b'{"session": "one", "seq": 9223372036854775808, "groups": []}',
        b'{"session": "one", "seq": 1, "groups": [], "wait_ms": -1}',
    ],
)
def test_what_is_not_a_fetch_is_refused(rt: Runtime, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {token_of(rt, 'agent')}", "Content-Type": "application/json"}
    answer = create_app(Current(rt)).test_client().post("/api/broker/fetch", data=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.get_json()["code"]


def test_a_poll_says_that_the_agent_is_alive(rt: Runtime, connect: Callable[[str], HttpSource], clock: Clock) -> None:
    agent, bot = connect("agent"), principal(rt, "agent")
    said = {"instance": "one", "session": "session-one", "protocol": PROTOCOL, "version": "1", "databases": []}
    said |= {"operations": [], "max_concurrent": 1, "in_flight": 0, "started_at": clock()}
    agents.report(rt, bot, AgentReport.model_validate(said))
    clock.advance(50)
    fetch(agent, session="session-one")
    clock.advance(50)
    [listed] = agents.list_agents(rt, principal(rt, "olga"))["agents"]
    assert listed["status"] == "healthy"


def test_the_servers_own_source_is_not_asked_who_it_is(rt: Runtime) -> None:
    source = SqlSource(rt.store, rt.hub, rt.now)
    source.declare(Declare(session="x", queue="anything"))
    assert source.depths(Depths(queues=["anything"]))[0].ready == 0


def test_errors_that_are_no_answer_of_ours_are_outages(rt: Runtime) -> None:
    with serving(rt) as address:
        lost = HttpSource(address + "/somewhere/else", token_of(rt, "agent"))
        with pytest.raises(DbwardError) as error:
            lost.hello()
        lost.close()
    assert not isinstance(error.value, Invalid | Unauthorized)
