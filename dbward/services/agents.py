"""What agents say of themselves, and what people may see of them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Literal

from dbward import VERSION
from dbward.broker import store as broker
from dbward.broker.names import job_queue, parse_job_queue
from dbward.client.wire import PROTOCOL, AgentReport, AgentWelcome
from dbward.db import agents, requests
from dbward.db.engine import Connection, Tx
from dbward.db.rows import AgentRow, RequestRow
from dbward.domain import rbac
from dbward.domain.model import Event, Permission, Principal, Target
from dbward.errors import Invalid, Refused, Unavailable
from dbward.runtime import Runtime
from dbward.services import access, sight
from dbward.services.journal import record, record_refusal
from dbward.services.views import View

OFFLINE_AFTER = timedelta(seconds=60)
NEVER_SECS = 9999

AgentStatus = Literal["healthy", "saturated", "draining", "offline"]


def reporting(conn: Connection, session: str, who: Principal) -> AgentRow:
    """The agent process of this session, if it is one of `who`'s. Raises `Unavailable` (`agent.unknown`).

    That is no conflict: for one the agent would drop the message it holds.
    """
    agent = agents.of_session(conn, session)
    if agent is None or agent.subject_id != who.subject:
        raise Unavailable("this session has not reported itself", code="agent.unknown", hint="report, then try again")
    return agent


def dialect_at(agent: AgentRow, target: Target) -> str | None:
    """What the agent says the database is; None when it has not declared it."""
    return next((d["dialect"] for d in agent.databases if Target(d["database"], d["environment"]) == target), None)


def report(rt: Runtime, who: Principal, said: AgentReport) -> AgentWelcome:
    """Register an agent process, or take its latest word. Every declared target must be registered and in scope.

    Raises `Refused` (a target outside the token's scopes) and `Invalid` (unknown target, protocol).
    """
    if said.protocol != PROTOCOL:
        raise Invalid(
            f"the agent speaks protocol {said.protocol}, this server {PROTOCOL}",
            code="agent.protocol",
            hint="upgrade the older of the two",
        )
    targets = [Target(d.database, d.environment) for d in said.databases]
    for target in targets:
        if (refusal := rbac.refuse(who, Permission.AGENT_OPERATE, target=target, owner=None)) is not None:
            raise _refused(rt, who, refusal, target)
        if target not in rt.settings.policy.targets:
            raise Invalid(
                f"{target} is not registered on the server",
                code="database.not_registered",
                hint="add it to [[databases]] in server.toml, or take it out of agent.toml",
            )
    queues = [job_queue(target) for target in targets]

    def work(tx: Tx) -> tuple[str, datetime]:
        now = rt.now()
        node, before = _free_name(tx.conn, f"{who.subject}@{said.instance}", said.session, now)
        agents.save(
            tx,
            AgentRow(
                id=node,
                subject_id=who.subject,
                token_id=who.token_id or "",
                session=said.session,
                version=said.version,
                databases=[d.model_dump(mode="json") for d in said.databases],
                operations=[str(operation) for operation in said.operations],
                max_concurrent=said.max_concurrent,
                in_flight=said.in_flight,
                active_jobs=[job.model_dump(mode="json") for job in said.active_jobs],
                draining=said.draining,
                started_at=said.started_at,
                last_seen_at=now,
            ),
        )
        for declared, target in zip(said.databases, targets, strict=True):
            agents.set_dialect(tx, target, declared.dialect, now)
        broker.ensure_job_queues(tx, queues)
        if before is None:
            record(rt, tx, Event.AGENT_REGISTERED, actor=who, resource=("agent", node))
        return node, now

    node, at = rt.store.write(work)
    return AgentWelcome(node=node, queues=queues, server_time=at, server_version=VERSION, protocol=PROTOCOL)


def _refused(rt: Runtime, who: Principal, refusal: Refused, target: Target) -> Refused:
    """Recorded, but not each time: an agent that is set up wrong asks again and again."""
    if rt.tokens.worth_recording(f"agent:{who.token_id}", rt.now()):
        rt.store.write(
            lambda tx: record_refusal(rt, tx, refusal, actor=who, request=None, action="agent.report", target=target)
        )
    return refusal


def _free_name(conn: Connection, name: str, session: str, now: datetime) -> tuple[str, AgentRow | None]:
    """The name this process has, or the first free of `name`, `name-2`, `name-3` …, with whoever had it before.

    A name is taken while the process that has it is heard of: replicas with one `agent_id` are told apart, and an agent
    that is back right after a crash need not wait until its former self is given up.
    """
    taken = agents.named_like(conn, name)
    for node, row in taken.items():
        if row.session == session:
            return node, row
    for number in itertools.count(1):
        node = name if number == 1 else f"{name}-{number}"
        row_before = taken.get(node)
        if row_before is None or row_before.draining or not _alive(row_before, now):
            return node, row_before
    raise AssertionError("counting never ends")


def seen(tx: Tx, session: str, now: datetime) -> None:
    """Note that the process behind `session` is alive; the broker calls it with every poll."""
    agents.seen(tx, session, now)


def list_agents(rt: Runtime, who: Principal) -> View:
    """Every agent, and for every target how many jobs wait and since when. Raises `Refused`.

    What an agent works at is told without the id of a request that this person may not see.
    """
    access.check(who, Permission.METRICS_VIEW)
    now = rt.now()
    with rt.store.read() as conn:
        rows = agents.all_agents(conn)
        depths = broker.depths(conn, now)
        running = {job["request_id"] for row in rows for job in row.active_jobs}
        known = requests.those_seen(conn, running, sight.viewed_by(who))
    queues = []
    for depth in depths:
        target = parse_job_queue(depth.queue)
        if target is None:
            continue
        queues.append(
            {
                "database": target.database,
                "environment": target.environment,
                "ready": depth.ready,
                "leased": depth.leased,
                "dead": depth.dead,
                "oldest_job_age_secs": depth.oldest_secs,
            }
        )
    return {"agents": [_agent_view(row, now, known) for row in rows], "queues": queues}


def _agent_view(row: AgentRow, now: datetime, known: Collection[str]) -> View:
    status = status_of(row, now)
    ago = int((now - row.last_seen_at).total_seconds())
    return {
        "id": row.id,
        "status": status,
        "version": row.version,
        "last_poll_ago_secs": min(max(ago, 0), NEVER_SECS),
        "in_flight": row.in_flight,
        "max_concurrent": row.max_concurrent,
        "uptime_secs": 0 if status == "offline" else max(int((now - row.started_at).total_seconds()), 0),
        "active_jobs": [
            {**job, "request_id": job["request_id"] if job["request_id"] in known else None}
            for job in (row.active_jobs if status != "offline" else [])
        ],
        "capabilities": {
            "scopes": [{"database": d["database"], "environment": d["environment"]} for d in row.databases],
            "operations": row.operations,
        },
        "databases": row.databases,
    }


def _alive(row: AgentRow, now: datetime) -> bool:
    return now - row.last_seen_at <= OFFLINE_AFTER


def status_of(row: AgentRow, now: datetime) -> AgentStatus:
    if not _alive(row, now):
        return "offline"
    if row.draining:
        return "draining"
    return "saturated" if row.in_flight >= row.max_concurrent else "healthy"


def queue_hint(rows: Sequence[AgentRow], request: RequestRow, now: datetime) -> str | None:
    """Why a dispatched request may be waiting: no agents, all draining, all busy; None when one should take it."""
    serving = [
        status_of(row, now)
        for row in rows
        if any(
            d["database"] == request.database and d["environment"] == request.environment and d["status"] == "up"
            for d in row.databases
        )
    ]
    live = [status for status in serving if status != "offline"]
    if not live:
        return "no_agents"
    if all(status == "draining" for status in live):
        return "agents_draining"
    return "agents_saturated" if all(status in {"draining", "saturated"} for status in live) else None


def databases(rt: Runtime, who: Principal) -> View:
    """The registered targets that some role of this person covers. Raises `Refused`."""
    access.check(who, Permission.REQUEST_VIEW)
    pairs = [t for t in rt.settings.policy.targets if rbac.allowed(who, Permission.REQUEST_VIEW, t)]
    return {"databases": [{"database": t.database, "environment": t.environment} for t in sorted(pairs)]}


def public_key(rt: Runtime, who: Principal) -> View:
    """The key execution tokens verify with. For agents only, as the API has always been."""
    if who.kind != "agent":
        raise Refused("this endpoint is for agents")
    return {"public_key": rt.keys.execution_public_hex}
