"""What queues, exchanges and tasks are called; both ends of the wire agree here."""

from __future__ import annotations

import re
from typing import Final

from dbward.domain.model import Target
from dbward.domain.names import parse_name
from dbward.errors import Invalid

EXECUTE_TASK: Final = "dbward.execute"
EXPLAIN_TASK: Final = "dbward.explain"

CONTROL: Final = "celery.pidbox"
"""Remote control: every worker's mailbox is bound to this fanout exchange."""
REPLIES: Final = "reply.celery.pidbox"
EVENTS: Final = "celeryev"

_JOB = "job."
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def job_queue(target: Target) -> str:
    """`job.<database>.<environment>`: names hold no dots, so the parts cannot run into each other."""
    return f"{_JOB}{target.database}.{target.environment}"


def parse_job_queue(queue: str) -> Target | None:
    """The target of a job queue; None for any other queue."""
    prefix, *parts = queue.split(".")
    if prefix + "." != _JOB or len(parts) != 2:
        return None
    try:
        return Target(parse_name(parts[0], "database"), parse_name(parts[1], "environment"))
    except Invalid:
        return None


def is_reply_queue(queue: str) -> bool:
    """`<id>.reply.celery.pidbox`: where one client hears the answers to its commands."""
    return queue.endswith("." + REPLIES)


def is_event_queue(queue: str) -> bool:
    return queue.startswith(EVENTS + ".") and not queue.endswith("." + CONTROL)


def mailbox_node(queue: str) -> str | None:
    """The worker whose control queue this is (`<node>.celery.pidbox`); None for any other queue."""
    return queue.removesuffix("." + CONTROL) if queue.endswith("." + CONTROL) and not is_reply_queue(queue) else None


def is_node_of(node: str, subject: str) -> bool:
    """Whether `node` is `<subject>@<instance>`. An instance holds no `@`, so no subject can pose as another."""
    owner, at, instance = node.rpartition("@")
    return bool(at) and owner == subject and _INSTANCE.fullmatch(instance) is not None


def topic_matches(pattern: str, routing_key: str) -> bool:
    """AMQP topics: `*` is one word, `#` any number of them, words are between dots."""
    words = routing_key.split(".")
    # Of how many words the part of the pattern read so far can stand for; one list, so many `#` cost no more than one.
    reached = [True] + [False] * len(words)
    for part in pattern.split("."):
        if part == "#":
            first = reached.index(True) if True in reached else len(reached)
            reached = [n >= first for n in range(len(reached))]
        else:
            reached = [False] + [
                before and part in ("*", word) for before, word in zip(reached[:-1], words, strict=True)
            ]
    return reached[-1]
