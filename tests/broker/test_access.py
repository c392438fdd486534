"""Who may do what at the broker, and every way found to get around it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from dbward.broker import access
from dbward.broker.access import COMMANDS, CONTROL_COMMANDS, INSPECT_COMMANDS, RULES, Facts, Part
from dbward.broker.wire import Bind, Declare, Depths, Fetch, Group, Hello, OneQueue, Publish, Unbind
from dbward.domain.model import Principal, Target
from dbward.domain.roles import BUILTIN_ROLES
from dbward.errors import Invalid, Missing, Refused

DEV, PROD = Target("app", "development"), Target("app", "production")
AGENT = Principal(
    "bot", "agent", roles=(BUILTIN_ROLES["agent-default"],), token_id="t-bot", scopes=(Target("*", "development"),)
)
MONITOR = Principal("olga", "user", roles=(BUILTIN_ROLES["operator"],), token_id="t-olga")
OPERATOR = Principal("root", "user", roles=(BUILTIN_ROLES["admin"],), token_id="t-root")
REQUESTER = Principal("rita", "user", roles=(BUILTIN_ROLES["requester"],), token_id="t-rita")
NOBODY = Principal("x", "user", token_id="t-x")

JOB, FOREIGN_JOB = "job.app.development", "job.app.production"
BOX, FOREIGN_BOX = "bot@one.celery.pidbox", "other@one.celery.pidbox"
REPLY, FOREIGN_REPLY = "r1.reply.celery.pidbox", "r2.reply.celery.pidbox"
EVENT = "celeryev.abc"
FACTS = Facts(
    {JOB: None, FOREIGN_JOB: None, BOX: "t-bot", REPLY: "t-olga", FOREIGN_REPLY: "t-root", EVENT: "t-olga"},
    frozenset({DEV, PROD}),
)


def fetch(*queues: str, no_ack: bool = False) -> Fetch:
    return Fetch(session="s", seq=1, groups=[Group(queues=list(queues), no_ack=no_ack)])


def declare(queue: str) -> Declare:
    return Declare(session="s", queue=queue)


def bind(queue: str, exchange: str, kind: Any = "direct", key: str = "") -> Bind:
    return Bind(queue=queue, exchange=exchange, type=kind, routing_key=key)


def allowed(who: Principal, verb: str, ask: BaseModel, facts: Facts = FACTS) -> bool:
    return access.refuse(who, verb, ask, facts) is None


def test_the_parts() -> None:
    people = (AGENT, MONITOR, OPERATOR, REQUESTER, NOBODY)
    assert [access.part_of(who) for who in people] == [Part.AGENT, Part.MONITOR, Part.OPERATOR, None, None]


def test_the_whole_table() -> None:
    """A verb that is not listed is refused; a new one must be thought about here."""
    watching = {"hello", "declare", "bind", "unbind", "delete", "fetch", "publish", "depths"}
    assert {verb for part, verb in RULES if part is Part.MONITOR} == watching
    assert {verb for part, verb in RULES if part is Part.OPERATOR} == watching
    working = {"hello", "declare", "bind", "unbind", "fetch", "publish", "depths", "ack", "extend", "reject", "release"}
    assert {verb for part, verb in RULES if part is Part.AGENT} == working


@pytest.mark.parametrize("verb", sorted({verb for _, verb in RULES} | {"purge", ""}))
@pytest.mark.parametrize("who", [REQUESTER, NOBODY], ids=["requester", "nobody"])
def test_without_a_part_nothing_is_allowed(who: Principal, verb: str) -> None:
    assert isinstance(access.refuse(who, verb, Hello(), FACTS), Refused)


@pytest.mark.parametrize(
    ("ask", "verb", "fine"),
    [
        (fetch(JOB), "fetch", True),
        (fetch(FOREIGN_JOB), "fetch", False),
        (fetch(JOB, FOREIGN_JOB), "fetch", False),
        (fetch("job.none.development"), "fetch", False),  # in scope, but not registered
        (fetch("job.app.development.x"), "fetch", False),
        (fetch("job.app"), "fetch", False),
        (fetch("job..development"), "fetch", False),
        (fetch("job.*.*"), "fetch", False),
        (fetch(JOB, no_ack=True), "fetch", False),  # a job read without a lease would be lost with its reader
        (fetch(BOX, no_ack=True), "fetch", True),
        (fetch(FOREIGN_BOX), "fetch", False),
        (fetch("bot.celery.pidbox"), "fetch", False),
        (fetch("bot@one@two.celery.pidbox"), "fetch", False),
        (fetch("bot@.celery.pidbox"), "fetch", False),
        (fetch("xbot@one.celery.pidbox"), "fetch", False),
        (fetch("x@bot@one.celery.pidbox"), "fetch", False),
        (fetch(REPLY), "fetch", False),
        (fetch("bot@one.reply.celery.pidbox"), "fetch", False),
        (fetch(EVENT), "fetch", False),
        (fetch("anything"), "fetch", False),
        (declare(JOB), "declare", True),
        (declare(FOREIGN_JOB), "declare", False),
        (declare(BOX), "declare", True),
        (declare("bot@two.celery.pidbox"), "declare", True),
        (declare(FOREIGN_BOX), "declare", False),
        (declare(REPLY), "declare", False),
        (declare(EVENT), "declare", False),
        (declare("celery"), "declare", False),
        (bind(BOX, "celery.pidbox", "fanout"), "bind", True),
        (bind(BOX, "celery.pidbox", "direct"), "bind", False),
        (bind(BOX, "reply.celery.pidbox", "direct", "r1"), "bind", False),  # would hear answers to others
        (bind(BOX, "celeryev", "topic", "#"), "bind", False),
        (bind(JOB, JOB, "direct", JOB), "bind", True),  # what Celery does by itself, and it changes nothing
        (bind(JOB, "celery.pidbox", "fanout"), "bind", False),
        (bind(JOB, FOREIGN_JOB, "direct", FOREIGN_JOB), "bind", False),
        (bind(FOREIGN_BOX, "celery.pidbox", "fanout"), "bind", False),
        (Unbind(queue=FOREIGN_BOX, exchange="celery.pidbox", routing_key=""), "unbind", False),  # would deafen it
        (Unbind(queue=BOX, exchange="celery.pidbox", routing_key=""), "unbind", True),
        (Depths(queues=[JOB, BOX]), "depths", True),
        (Depths(queues=[JOB, FOREIGN_JOB]), "depths", False),
        (OneQueue(queue=JOB), "delete", False),
        (OneQueue(queue=BOX), "delete", False),
    ],
)
def test_an_agent(ask: BaseModel, verb: str, fine: bool) -> None:
    assert allowed(AGENT, verb, ask) is fine


@pytest.mark.parametrize(
    ("ask", "verb", "fine"),
    [
        (declare("new.reply.celery.pidbox"), "declare", True),
        (declare(REPLY), "declare", True),
        (declare(FOREIGN_REPLY), "declare", False),
        (declare("celeryev.new"), "declare", True),
        (declare(JOB), "declare", False),
        (declare("job.new.queue"), "declare", False),
        (declare(BOX), "declare", False),  # an agent's mailbox
        (declare("celeryev.x.celery.pidbox"), "declare", False),  # a mailbox in an event queue's clothes
        (bind(REPLY, "reply.celery.pidbox", "direct", "r1"), "bind", True),
        (bind(REPLY, "reply.celery.pidbox", "direct", "r2"), "bind", False),  # would hear another's answers
        (bind(REPLY, "reply.celery.pidbox", "fanout", "r1"), "bind", False),
        (bind(REPLY, "celery.pidbox", "fanout", ""), "bind", False),  # would hear every command
        (bind(EVENT, "celeryev", "topic", "#"), "bind", True),
        (bind(EVENT, "celery.pidbox", "fanout", ""), "bind", False),
        (bind(FOREIGN_REPLY, "reply.celery.pidbox", "direct", "r2"), "bind", False),
        (bind(JOB, JOB, "direct", JOB), "bind", False),
        (fetch(REPLY, no_ack=True), "fetch", True),
        (fetch(REPLY), "fetch", False),  # only agents lease
        (fetch(EVENT, no_ack=True), "fetch", True),
        (fetch(FOREIGN_REPLY, no_ack=True), "fetch", False),
        (fetch(JOB, no_ack=True), "fetch", False),
        (fetch(JOB), "fetch", False),
        (fetch(BOX, no_ack=True), "fetch", False),
        (OneQueue(queue=REPLY), "delete", True),
        (OneQueue(queue=FOREIGN_REPLY), "delete", False),
        (OneQueue(queue=JOB), "delete", False),
        (OneQueue(queue=BOX), "delete", False),
        (OneQueue(queue="gone.reply.celery.pidbox"), "delete", True),
        (Depths(queues=[JOB, FOREIGN_JOB]), "depths", True),
    ],
)
@pytest.mark.parametrize("part", ["monitor", "operator"])
def test_a_watcher(part: str, ask: BaseModel, verb: str, fine: bool) -> None:
    who = MONITOR if part == "monitor" else OPERATOR
    swapped = {"t-olga": "t-root", "t-root": "t-olga"}
    owners = {
        queue: swapped.get(owner or "", owner) if who is OPERATOR else owner for queue, owner in FACTS.owners.items()
    }
    assert allowed(who, verb, ask, Facts(owners, FACTS.targets)) is fine


def test_a_queue_that_expired_is_missing_and_not_refused() -> None:
    assert isinstance(access.refuse(MONITOR, "fetch", fetch("old.reply.celery.pidbox", no_ack=True), FACTS), Missing)


# --- messages ---------------------------------------------------------------------------------------------------------


def message(body: Any, **changes: Any) -> dict[str, Any]:
    return {
        "body": body if isinstance(body, str) else json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"clock": 1, "expires": 0},
        "properties": {"body_encoding": "utf-8", "delivery_info": {}, "delivery_tag": "m"},
    } | changes


def command(method: Any = "ping", arguments: Any = None, **more: Any) -> dict[str, Any]:
    body = {"method": method, "arguments": arguments or {}, "destination": None, "pattern": None, "matcher": None}
    return body | {"ticket": "t", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "r1"}} | more


def publish(exchange: str, body: Any, **changes: Any) -> Publish:
    return Publish(exchange=exchange, routing_key="", mid="m", message=message(body, **changes))


def sent(who: Principal, ask: Publish) -> Any:
    """The body as workers will see it; raises what the sender is told."""
    cleaned = access.clean(who, ask)
    if (refusal := access.refuse(who, "publish", cleaned, FACTS)) is not None:
        raise refusal
    return json.loads(cleaned.message["body"])


@pytest.mark.parametrize("method", sorted(INSPECT_COMMANDS))
@pytest.mark.parametrize("who", [MONITOR, OPERATOR], ids=["monitor", "operator"])
def test_watchers_may_look(who: Principal, method: str) -> None:
    key = "r1" if who is MONITOR else "r2"
    body = command(method, reply_to={"exchange": "reply.celery.pidbox", "routing_key": key})
    assert sent(who, publish("celery.pidbox", body)) == body


CELERY_COMMANDS = [
    "add_consumer",
    "autoscale",
    "cancel_consumer",
    "conf",
    "disable_events",
    "dump_active",
    "dump_conf",
    "dump_reserved",
    "dump_revoked",
    "dump_schedule",
    "dump_tasks",
    "election",
    "enable_events",
    "hello",
    "memdump",
    "memsample",
    "objgraph",
    "pool_grow",
    "pool_restart",
    "pool_shrink",
    "rate_limit",
    "report",
    "revoke",
    "revoke_by_stamped_headers",
    "shutdown",
    "terminate",
    "time_limit",
]


def test_the_list_of_commands_is_celerys() -> None:
    from celery.worker.control import Panel

    known = set(CELERY_COMMANDS) | set(INSPECT_COMMANDS)
    assert set(Panel.meta) <= known, "a new command: decide who may send it"
    assert not COMMANDS & (set(CELERY_COMMANDS) - set(CONTROL_COMMANDS))


@pytest.mark.parametrize("method", [*CELERY_COMMANDS, "nonsense", "", "ping ", "PING", "__class__"])
def test_a_monitor_may_only_look(method: str) -> None:
    with pytest.raises(Refused):
        sent(MONITOR, publish("celery.pidbox", command(method)))


@pytest.mark.parametrize("method", CELERY_COMMANDS)
def test_an_operator_may_switch_events_and_nothing_else(method: str) -> None:
    ask = publish("celery.pidbox", command(method, reply_to=None, ticket=None))
    if method in CONTROL_COMMANDS:
        assert sent(OPERATOR, ask)["method"] == method
    else:
        with pytest.raises(Refused):
            sent(OPERATOR, ask)


@pytest.mark.parametrize(
    "body",
    [
        command("query_task", {"ids": ["a"] * 101}),
        command("query_task", {"ids": "a"}),
        command("query_task", {"ids": [{"__type__": "bytes", "__value__": "x"}]}),
        command("ping", {"x": 1}),
        command("active", {"safe": "yes"}),
        command("registered", {"taskinfoitems": ["__globals__"]}),
        command("stats", {"state": None}),
        command(arguments=[1]),
        command(pattern=".*(a+)+$", matcher="pcre"),
        command(pattern="*", matcher=["glob"]),
        command(pattern="a" * 256, matcher="glob"),
        command(reply_to={"exchange": "", "routing_key": JOB}),  # answers as jobs
        command(reply_to={"exchange": "celery.pidbox", "routing_key": ""}),  # answers as commands
        command(reply_to={"exchange": "reply.celery.pidbox", "routing_key": "r2"}),  # answers to somebody else
        command(reply_to={"exchange": "reply.celery.pidbox", "routing_key": "unknown"}),
    ],
)
def test_commands_that_would_reach_further_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        sent(MONITOR, publish("celery.pidbox", body))


@pytest.mark.parametrize(
    "ask",
    [
        publish("celery.pidbox", "not json"),
        publish("celery.pidbox", "[" * 10_000),
        publish("celery.pidbox", '{"method": NaN}'),
        publish("celery.pidbox", []),
        publish("celery.pidbox", {"method": "ping", "extra": 1}),
        publish("celery.pidbox", {"__type__": "bytes", "__value__": "eA==", "method": "ping"}),
        publish("celery.pidbox", command(method=["ping"])),
        publish("celery.pidbox", command(method={"__type__": "bytes", "__value__": "x"})),
        publish("celery.pidbox", command(destination="agent")),
        publish("celery.pidbox", command(destination=[1])),
        publish("celery.pidbox", command(ticket=["x"])),
        publish("celery.pidbox", command(reply_to="r1")),
        publish("celery.pidbox", command(reply_to={"exchange": "reply.celery.pidbox", "routing_key": "r1", "x": 1})),
        publish("celery.pidbox", command("ping", destination=["a" * 200] * 100)),
        publish("celery.pidbox", command(), **{"content-type": "application/x-python-serialize"}),
        publish("celery.pidbox", command(), **{"content-encoding": "binary"}),
        publish("celery.pidbox", command(), headers={"compression": "application/x-gzip"}),
        publish("celery.pidbox", command(), headers=[1]),
        publish("celery.pidbox", command(), headers={"clock": "1"}),
        publish("celery.pidbox", command(), headers={"clock": 2**60}),
        publish("celery.pidbox", command(), headers={"expires": "soon"}),
        publish("celery.pidbox", command(), properties={"body_encoding": "base64"}),
        publish("celery.pidbox", command(), properties=None),
        Publish(exchange="celery.pidbox", routing_key="", mid="m", message={}),
    ],
)
def test_what_is_no_plain_command_is_not_taken(ask: Publish) -> None:
    with pytest.raises(Invalid):
        sent(MONITOR, ask)


def test_a_command_is_put_together_anew() -> None:
    """Workers see what was understood: no second key of the same name, no header or property of the sender's choice."""
    body = '{"method": "shutdown", "method": "ping", "arguments": {}}'
    ask = publish("celery.pidbox", body, headers={"clock": 1, "task": "x", "id": "y"}, more="x")
    cleaned = access.clean(MONITOR, ask).message
    assert cleaned["body"].count("method") == 1
    assert cleaned["headers"] == {"clock": 1}
    assert cleaned.keys() == {"body", "content-type", "content-encoding", "headers", "properties"}
    assert cleaned["properties"]["delivery_info"] == {"exchange": "celery.pidbox", "routing_key": ""}


@pytest.mark.parametrize("exchange", ["", "job.app.development", "celery", "amq.direct"])
@pytest.mark.parametrize("who", [AGENT, MONITOR, OPERATOR], ids=["agent", "monitor", "operator"])
def test_nobody_publishes_jobs(who: Principal, exchange: str) -> None:
    ask = Publish(exchange=exchange, routing_key=JOB, mid="m", message=message([[], {}, {}]))
    with pytest.raises(Refused):
        sent(who, ask)


@pytest.mark.parametrize(
    ("who", "exchange", "body"),
    [
        (AGENT, "celery.pidbox", command()),
        (AGENT, "celery.pidbox", command("shutdown")),
        (AGENT, "reply.celery.pidbox", {"other@one": {"ok": "pong"}}),
        (AGENT, "reply.celery.pidbox", {"bot@one": 1, "other@one": 2}),
        (AGENT, "reply.celery.pidbox", {}),
        (AGENT, "reply.celery.pidbox", []),
        (AGENT, "celeryev", {"type": "worker-offline", "hostname": "other@one"}),
        (AGENT, "celeryev", {"type": "worker-offline"}),
        (AGENT, "celeryev", [{"hostname": "bot@one"}, {"hostname": "other@one"}]),
        (MONITOR, "reply.celery.pidbox", {"bot@one": {"ok": "pong"}}),
        (MONITOR, "celeryev", {"type": "worker-heartbeat", "hostname": "bot@one"}),
        (OPERATOR, "celeryev", {"type": "worker-heartbeat", "hostname": "bot@one"}),
    ],
)
def test_nobody_speaks_in_anothers_name(who: Principal, exchange: str, body: Any) -> None:
    with pytest.raises((Refused, Invalid)):
        sent(who, publish(exchange, body))


def test_an_agent_answers_and_tells_events_in_its_own_name() -> None:
    answer = {"bot@one": {"ok": "pong"}}
    assert sent(AGENT, publish("reply.celery.pidbox", answer)) == answer
    event = {"type": "worker-heartbeat", "hostname": "bot@one"}
    assert sent(AGENT, publish("celeryev", event)) == event
    assert sent(AGENT, publish("celeryev", [event, event])) == [event, event]


def test_an_answer_has_a_stated_size() -> None:
    with pytest.raises(Invalid):
        sent(AGENT, publish("reply.celery.pidbox", {"bot@one": "x" * 300_000}))
