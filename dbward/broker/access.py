"""Who may do what at the broker: one table, pure, and what it does not hold is refused.

An agent works: it consumes the jobs of its scopes and its own mailbox, and publishes nothing but answers and events. A
monitor (`metrics.view`) watches: it sends the inspect commands that only look, and reads its own queues. An operator
(`agent.control`) may also send the few commands of `CONTROL_COMMANDS`. Everything else in Celery's remote control is
refused to everybody: some of it changes what a worker consumes or runs, and some only looks as if it read
(`hello` revokes tasks, `objgraph` writes files, `conf` and `report` print settings).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn

from pydantic import BaseModel

from dbward.broker import names
from dbward.broker.names import (
    CONTROL,
    EVENTS,
    REPLIES,
    is_event_queue,
    is_node_of,
    is_reply_queue,
    mailbox_node,
    parse_job_queue,
)
from dbward.broker.options import MAX_COMMAND_BYTES, MAX_MESSAGE_BYTES
from dbward.broker.wire import Bind, Declare, Depths, Fetch, OneQueue, Publish, Unbind
from dbward.domain import rbac
from dbward.domain.model import Permission, Principal, Target
from dbward.errors import Invalid, Missing, Refused


class Part(StrEnum):
    """What a caller is to the broker."""

    AGENT = "agent"
    MONITOR = "monitor"
    OPERATOR = "operator"


def part_of(who: Principal) -> Part | None:
    if who.kind == "agent":
        return Part.AGENT
    if rbac.allowed(who, Permission.AGENT_CONTROL, None):
        return Part.OPERATOR
    return Part.MONITOR if rbac.allowed(who, Permission.METRICS_VIEW, None) else None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules must know of the database. `owners` are the token ids of the queues named that exist; None: the
    server's. `targets` are those registered.
    """

    owners: Mapping[str, str | None]
    targets: frozenset[Target] = frozenset()


def refuse(who: Principal, verb: str, ask: BaseModel, facts: Facts) -> Refused | Missing | None:
    """Why not, or None when it is allowed. Sessions and the content of messages are looked at elsewhere."""
    part = part_of(who)
    rule = RULES.get((part, verb)) if part is not None else None
    if rule is None:
        need = "an agent's token, or the permission metrics.view" if part is None else "another token"
        return Refused(f"broker: {verb} needs {need}")
    return rule(who, ask, facts)


# --- rules ------------------------------------------------------------------------------------------------------------

_Rule = Callable[[Principal, Any, Facts], Refused | Missing | None]


def _fine(who: Principal, ask: BaseModel, facts: Facts) -> None:  # noqa: ARG001 - a rule
    return None


def _agent_queue(who: Principal, queue: str, facts: Facts) -> Refused | None:
    target = parse_job_queue(queue)
    if target is not None:
        if target in facts.targets and rbac.allowed(who, Permission.AGENT_OPERATE, target):
            return None
        return Refused(f"broker: {queue} is outside the scopes of this token, or not registered")
    node = mailbox_node(queue)
    if node is not None and is_node_of(node, who.subject):
        return None
    return Refused(f"broker: {queue} is not a queue of this agent")


def _agent_declares(who: Principal, ask: Declare, facts: Facts) -> Refused | None:
    return _agent_queue(who, ask.queue, facts)


def _agent_binds(who: Principal, ask: Bind | Unbind, facts: Facts) -> Refused | None:
    if (refusal := _agent_queue(who, ask.queue, facts)) is not None:
        return refusal
    if parse_job_queue(ask.queue) is not None:
        fits = ask.exchange == ask.routing_key == ask.queue
    else:
        fits = ask.exchange == CONTROL and _type_of(ask) in (None, "fanout")
    return None if fits else Refused(f"broker: {ask.queue} may not be bound to {ask.exchange}")


def _agent_fetches(who: Principal, ask: Fetch, facts: Facts) -> Refused | None:
    for group in ask.groups:
        for queue in group.queues:
            if (refusal := _agent_queue(who, queue, facts)) is not None:
                return refusal
            if group.no_ack and parse_job_queue(queue) is not None:
                return Refused(f"broker: jobs are leased, so {queue} cannot be read without acknowledgement")
    return None


def _agent_asks_depths(who: Principal, ask: Depths, facts: Facts) -> Refused | None:
    return next((r for queue in ask.queues if (r := _agent_queue(who, queue, facts)) is not None), None)


def _agent_publishes(who: Principal, ask: Publish, facts: Facts) -> Refused | None:  # noqa: ARG001 - a rule
    if ask.exchange in (REPLIES, EVENTS):
        return None
    return Refused("broker: an agent publishes only answers to commands, and events")


def _watcher_declares(who: Principal, ask: Declare, facts: Facts) -> Refused | None:
    if not (is_reply_queue(ask.queue) or is_event_queue(ask.queue)):
        return Refused(f"broker: {ask.queue} is neither a reply queue nor an event queue")
    if ask.queue in facts.owners and facts.owners[ask.queue] != who.token_id:
        return Refused(f"broker: {ask.queue} belongs to another token")
    return None


def _watcher_owns(who: Principal, queue: str, facts: Facts) -> Refused | Missing | None:
    if not (is_reply_queue(queue) or is_event_queue(queue)):
        return Refused(f"broker: {queue} is neither a reply queue nor an event queue")
    if queue not in facts.owners:
        return Missing(f"queue {queue}", code="broker.unknown_queue", detail={"queue": queue})
    return None if facts.owners[queue] == who.token_id else Refused(f"broker: {queue} belongs to another token")


def _watcher_binds(who: Principal, ask: Bind | Unbind, facts: Facts) -> Refused | Missing | None:
    exchange, kind = (REPLIES, "direct") if is_reply_queue(ask.queue) else (EVENTS, "topic")
    if ask.exchange != exchange or _type_of(ask) not in (None, kind):
        return Refused(f"broker: {ask.queue} may not be bound to {ask.exchange}")
    if exchange == REPLIES and ask.queue != f"{ask.routing_key}.{REPLIES}":
        return Refused("broker: a reply queue hears its own id only")
    return _watcher_owns(who, ask.queue, facts)


def _watcher_deletes(who: Principal, ask: OneQueue, facts: Facts) -> Refused | Missing | None:
    return None if ask.queue not in facts.owners else _watcher_owns(who, ask.queue, facts)


def _watcher_fetches(who: Principal, ask: Fetch, facts: Facts) -> Refused | Missing | None:
    for group in ask.groups:
        for queue in group.queues:
            if (refusal := _watcher_owns(who, queue, facts)) is not None:
                return refusal
            if not group.no_ack:
                return Refused("broker: only agents lease messages")
    return None


def _watcher_publishes(who: Principal, ask: Publish, facts: Facts) -> Refused | None:
    if ask.exchange != CONTROL:
        return Refused("broker: this token publishes only commands to agents")
    reply_to = reply_queue(ask)
    if reply_to is not None and facts.owners.get(reply_to) != who.token_id:
        return Refused("broker: answers may only go to a queue of the sender's own")
    return None


def _type_of(ask: Bind | Unbind) -> str | None:
    return ask.type if isinstance(ask, Bind) else None


_WATCHING: dict[str, _Rule] = {
    "hello": _fine,
    "declare": _watcher_declares,
    "bind": _watcher_binds,
    "unbind": _watcher_binds,
    "delete": _watcher_deletes,
    "fetch": _watcher_fetches,
    "publish": _watcher_publishes,
    "depths": _fine,
}

RULES: dict[tuple[Part, str], _Rule] = {
    (Part.AGENT, "hello"): _fine,
    (Part.AGENT, "declare"): _agent_declares,
    (Part.AGENT, "bind"): _agent_binds,
    (Part.AGENT, "unbind"): _agent_binds,
    (Part.AGENT, "fetch"): _agent_fetches,
    (Part.AGENT, "publish"): _agent_publishes,
    (Part.AGENT, "depths"): _agent_asks_depths,
    (Part.AGENT, "ack"): _fine,
    (Part.AGENT, "extend"): _fine,
    (Part.AGENT, "reject"): _fine,
    (Part.AGENT, "release"): _fine,
    **{(part, verb): rule for part in (Part.MONITOR, Part.OPERATOR) for verb, rule in _WATCHING.items()},
}

# --- messages ---------------------------------------------------------------------------------------------------------


def _no_value(value: Any) -> bool:
    return value is None or value == []


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 100 and all(isinstance(v, str) and len(v) <= 64 for v in value)


_Arguments = Mapping[str, Callable[[Any], bool]]

INSPECT_COMMANDS: Final[dict[str, _Arguments]] = {
    "ping": {},
    "clock": {},
    "active_queues": {},
    "registered": {"taskinfoitems": _no_value},
    "stats": {},
    "active": {"safe": _flag},
    "reserved": {},
    "scheduled": {},
    "query_task": {"ids": _ids},
    "revoked": {},
    "queue_depth": {},
    "heartbeat": {},  # asks workers to show themselves at once; Flower and `celery events` begin with it
}
"""What a monitor may send, with the arguments it may carry: only looks, and shows ids at most."""

CONTROL_COMMANDS: Final[dict[str, _Arguments]] = {"enable_events": {}, "disable_events": {}}
"""What needs `agent.control` besides: turns task events on and off, which Flower does by itself."""

COMMANDS: Final = frozenset(INSPECT_COMMANDS | CONTROL_COMMANDS)
"""All that an agent ever answers to."""

_COMMAND_KEYS = {"method", "arguments", "destination", "pattern", "matcher", "ticket", "reply_to"}


def clean(who: Principal, ask: Publish) -> Publish:
    """The message, looked at and put together anew from what was understood, so that no reader can understand it
    otherwise. Raises `Refused`, and `Invalid` for what no client of ours sends.
    """
    match ask.exchange:
        case names.CONTROL:
            body = _command(part_of(who), _body(ask, MAX_COMMAND_BYTES))
            headers = _headers(ask, {"clock": _count, "expires": _seconds})
        case names.REPLIES:
            body = _answer(who, _body(ask, MAX_MESSAGE_BYTES))
            headers = _headers(ask, {"clock": _count, "ticket": _short})
        case names.EVENTS:
            body = _events(who, _body(ask, MAX_MESSAGE_BYTES))
            headers = _headers(ask, {"hostname": lambda v: isinstance(v, str) and is_node_of(v, who.subject)})
        case _:
            raise Refused(f"broker: nobody publishes to {ask.exchange or ask.routing_key} from outside")
    message = {
        "body": json.dumps(body, separators=(",", ":")),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "body_encoding": "utf-8",
            "delivery_mode": 1,
            "delivery_info": {"exchange": ask.exchange, "routing_key": ask.routing_key},
            "delivery_tag": ask.mid,
            "priority": 0,
        },
    }
    return ask.model_copy(update={"message": message})


def reply_queue(ask: Publish) -> str | None:
    """The queue that a cleaned command wants its answers in."""
    reply_to = json.loads(ask.message["body"])["reply_to"] if ask.exchange == CONTROL else None
    return f"{reply_to['routing_key']}.{REPLIES}" if reply_to else None


def _body(ask: Publish, limit: int) -> Any:
    message = ask.message
    properties = message.get("properties")
    plain = (
        message.get("content-type") == "application/json"
        and message.get("content-encoding") == "utf-8"
        and isinstance(properties, dict)
        and properties.get("body_encoding") == "utf-8"
    )
    body = message.get("body")
    if not plain or not isinstance(body, str):
        raise Invalid("broker: messages are JSON in UTF-8, not encoded otherwise", code="broker.bad_message")
    if len(body) > limit:
        raise Invalid(f"broker: the message is longer than {limit} characters", code="broker.bad_message")
    try:
        return json.loads(body, parse_constant=_not_json)
    except (ValueError, RecursionError) as e:
        raise Invalid("broker: the message's body is not JSON", code="broker.bad_message") from e


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)


def _headers(ask: Publish, known: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    given = ask.message.get("headers") or {}
    if not isinstance(given, dict) or "compression" in given:
        raise Invalid("broker: messages are not compressed", code="broker.bad_message")
    wrong = [name for name, fits in known.items() if given.get(name) is not None and not fits(given[name])]
    if wrong:
        raise Invalid(f"broker: header {wrong[0]} is not what it should be", code="broker.bad_message")
    return {name: given[name] for name in known if given.get(name) is not None}


def _command(part: Part | None, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or not body.keys() <= _COMMAND_KEYS or not isinstance(body.get("method"), str):
        raise Invalid("broker: this is not a remote control command", code="broker.bad_message")
    method, arguments = body["method"], body.get("arguments") or {}
    allowed = INSPECT_COMMANDS | (CONTROL_COMMANDS if part is Part.OPERATOR else {})
    if method not in allowed:
        if method in CONTROL_COMMANDS:
            raise Refused(f"broker: the command {method} needs the permission agent.control")
        raise Refused(f"broker: the command {method[:64]} is not available")
    if not isinstance(arguments, dict) or any(
        name not in allowed[method] or not allowed[method][name](value) for name, value in arguments.items()
    ):
        raise Refused(f"broker: {method} takes no such arguments")
    destination, pattern, matcher = body.get("destination"), body.get("pattern"), body.get("matcher")
    if destination is not None and not (
        isinstance(destination, list) and len(destination) <= 1000 and all(map(_short, destination))
    ):
        raise Invalid("broker: destination is a list of node names", code="broker.bad_message")
    # A regular expression would run on every agent, however long it takes.
    if matcher not in (None, "glob") or not (pattern is None or _short(pattern)):
        raise Refused("broker: nodes are matched by name or glob only")
    return {
        "method": method,
        "arguments": arguments,
        "destination": destination,
        "pattern": pattern,
        "matcher": matcher,
        "ticket": _ticket(body),
        "reply_to": _reply_to(body.get("reply_to")),
    }


def _ticket(body: Mapping[str, Any]) -> str | None:
    ticket = body.get("ticket")
    if ticket is not None and not _short(ticket):
        raise Invalid("broker: a ticket is a short text", code="broker.bad_message")
    return ticket


def _reply_to(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"exchange", "routing_key"}:
        raise Invalid("broker: reply_to names an exchange and a routing key", code="broker.bad_message")
    if value["exchange"] != REPLIES or not _short(value["routing_key"]):
        raise Refused("broker: answers may only go to a queue of the sender's own")
    return value


def _answer(who: Principal, body: Any) -> Any:
    if not isinstance(body, dict) or len(body) != 1 or not is_node_of(next(iter(body)), who.subject):
        raise Refused("broker: an agent answers in its own name only")
    return body


def _events(who: Principal, body: Any) -> Any:
    events = body if isinstance(body, list) else [body]
    for event in events:
        if not isinstance(event, dict) or not is_node_of(str(event.get("hostname")), who.subject):
            raise Refused("broker: an agent sends events in its own name only")
    return body


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 255
