"""A real runtime on each kind of state store, people with tokens, an agent's hands, and a clock moved by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dbward import ids
from dbward.broker.names import EXECUTE_TASK
from dbward.broker.wire import Fetch, Group
from dbward.client.shapes import AuditFilter, NewRequest, RequestFilter
from dbward.client.wire import (
    PROTOCOL,
    AgentReport,
    Claimed,
    ClaimRequest,
    Completed,
    CompleteRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    ServedDatabase,
    StartRequest,
    WireError,
)
from dbward.domain.model import Dialect, Operation, Principal, Target
from dbward.errors import DbwardError
from dbward.runtime import Runtime, open_runtime
from dbward.services import (
    agents,
    audit,
    bootstrap,
    broker,
    completion,
    dispatch,
    executions,
    housekeeping,
    identity,
    requests,
    results,
    review,
)
from dbward.services.views import View
from dbward.settings.server import ServerSettings, load_server
from tests.conftest import State

PEOPLE = {
    "alice": ("requester", ""),
    "rita": ("requester", ""),
    "bob": ("approver", ""),
    "beth": ("approver", ""),
    "carol": ("approver", ""),
    "dana": ("watcher", "dba"),
    "sam": ("security", ""),
    "olga": ("operator", ""),
    "dev": ("developer", ""),
    "none": ("idle", ""),
    "both": ("requester approver", ""),
}

ENVIRONMENTS = (
    "auto",
    "prod",
    "steps",
    "any",
    "own",
    "same",
    "risk",
    "reasoned",
    "bare",
    "brief",
    "many",
    "stream",
    "timed",
)

POLICY = f"""
[[databases]]
name = "app"
dialect = "sqlite"
environments = {json.dumps(ENVIRONMENTS)}

[[databases]]
name = "unknown"
environments = ["auto"]

[[databases]]
name = "vouched"
dialect = "postgresql"
environments = ["auto"]
vouched_functions = ["refund_total"]

[[workflows]]
environment = "auto"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "prod"
[[workflows.steps]]
approvers = [{{ role = "approver" }}]

[[workflows]]
environment = "steps"
[[workflows.steps]]
approvers = [{{ role = "approver", min = 2 }}, {{ user = "sam" }}]
[[workflows.steps]]
approvers = [{{ group = "dba" }}, {{ user = "carol" }}]
mode = "any"

[[workflows]]
environment = "any"
[[workflows.steps]]
approvers = [{{ role = "approver", min = 2 }}, {{ user = "carol" }}]
mode = "any"

[[workflows]]
environment = "own"
allow_self_approve = true
[[workflows.steps]]
approvers = [{{ role = "requester" }}]

[[workflows]]
environment = "same"
allow_same_approver_across_steps = true
[[workflows.steps]]
approvers = [{{ user = "bob" }}]
[[workflows.steps]]
approvers = [{{ user = "bob" }}]

[[workflows]]
environment = "risk"
[workflows.auto_approve]
mode = "risk_based"
risk = "low"
[[workflows.steps]]
approvers = [{{ role = "approver" }}]

[[workflows]]
environment = "reasoned"
require_reason = true
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "brief"
pending_ttl_secs = 60
approval_ttl_secs = 600
[[workflows.steps]]
approvers = [{{ role = "approver" }}]

[[workflows]]
environment = "many"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "stream"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "timed"
statement_timeout_secs = 7
[workflows.auto_approve]
mode = "always"

[[execution_policies]]
environment = "many"
max_executions = 3
retry_on_failure = true
execution_window_secs = 3600
max_rows = 77

[[result_policies]]
environment = "stream"
delivery_mode = "stream"

[[result_policies]]
environment = "prod"
retention_days = 5
access = ["group:dba"]

[[auth.roles]]
name = "watcher"
permissions = ["request.view", "result.view"]

[[auth.roles]]
name = "security"
permissions = ["request.view"]

[[auth.roles]]
name = "developer"
permissions = ["request.query", "request.view:any", "result.view:any"]
environments = ["auto"]

[[auth.roles]]
name = "idle"
permissions = ["workflow.read"]

[[auth.groups]]
name = "dba"
roles = ["watcher"]

[result_storage]
backend = "local"
max_persist_bytes = 4096
"""

COLUMNS = [{"name": "n", "type": "INTEGER", "key": "n"}, {"name": "n", "type": "TEXT", "key": "n_2"}]


_polls = itertools.count(1)


class Clock:
    """The server's clock, moved by hand."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **spans: float) -> None:
        self.at += timedelta(**spans)


def users_toml(people: dict[str, tuple[str, str]]) -> str:
    return "\n".join(
        f'[[auth.users]]\nid = "{name}"\nroles = {json.dumps(role.split())}\n'
        f"groups = {json.dumps(group.split())}\n"
        f'token = "${{T_{name.upper()}}}"\n'
        for name, (role, group) in people.items()
    )


@dataclass
class Place:
    """Where a server keeps its state, and its configuration, which may be written anew."""

    path: Path
    url: str
    env: dict[str, str] = field(default_factory=lambda: {f"T_{name.upper()}": ids.new_token() for name in PEOPLE})

    def load(self, *, people: dict[str, tuple[str, str]] | None = None, more: str = "") -> ServerSettings:
        file = self.path / "server.toml"
        file.write_text(
            f"state_dir = {json.dumps(str(self.path / 'state'))}\n[state]\nurl = {json.dumps(self.url)}\n"
            f"{POLICY}\n{more}\n{users_toml(PEOPLE if people is None else people)}"
        )
        return load_server(file, self.env)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(state: State, tmp_path: Path) -> Place:
    return Place(tmp_path, state.url)


@pytest.fixture
def world(place: Place, clock: Clock) -> Iterator[World]:
    settings = place.load()
    bootstrap.prepare(settings, now=clock)
    rt = open_runtime(settings, now=clock)
    try:
        yield World(rt, clock)
    finally:
        rt.close()


@dataclass
class World:
    """A server without its network: use cases called as people and agents would."""

    rt: Runtime
    clock: Clock

    def token(self, name: str) -> str:
        if name in {"admin", "agent"}:
            return (self.rt.settings.state_dir / f"{name}-token").read_text()
        return next(user.token.reveal() for user in self.rt.settings.users if user.id == name and user.token)

    def enter(self, token: str, *, finishing: bool = False) -> Principal:
        return identity.authenticate(
            self.rt, token, peer_ip="192.0.2.1", client_ip="192.0.2.1", source="peer", finishing=finishing
        )

    def who(self, name: str) -> Principal:
        return self.enter(self.token(name))

    def create(self, name: str = "alice", environment: str = "auto", **body: Any) -> View:
        return self.submit(name, environment, **body)[0]

    def submit(self, name: str = "alice", environment: str = "auto", **body: Any) -> tuple[View, bool]:
        asked = {"database": "app", "environment": environment, "detail": "SELECT 1"} | body
        return requests.create(self.rt, self.who(name), NewRequest.model_validate(asked))

    def approve(self, name: str, request: View, *, comment: str | None = None, selector: str | None = None) -> View:
        return review.approve(self.rt, self.who(name), request["id"], comment, selector)

    def reject(self, name: str, request: View, comment: str | None = None) -> View:
        return review.reject(self.rt, self.who(name), request["id"], comment)

    def cancel(self, name: str, request: View, reason: str | None = None) -> View:
        return requests.cancel(self.rt, self.who(name), request["id"], reason)

    def resume(self, name: str, request: View, reason: str | None = None) -> View:
        return dispatch.resume(self.rt, self.who(name), request["id"], reason)

    def show(self, request: View, name: str = "alice") -> View:
        return requests.show(self.rt, self.who(name), request["id"])

    def status(self, request: View) -> str:
        return str(self.show(request, "olga")["status"])

    def page(self, name: str, **filters: Any) -> View:
        return requests.list_requests(self.rt, self.who(name), RequestFilter(**filters))

    def listed(self, name: str, **filters: Any) -> set[str]:
        found = self.page(name, **filters)
        assert found["total"] == len(found["requests"])
        return {item["id"] for item in found["requests"]}

    def envelope(self, request: View, name: str = "alice", execution_id: str | None = None, **how: Any) -> View:
        chunks = results.open_envelope(self.rt, self.who(name), request["id"], execution_id, **how)
        found: View = json.loads(b"".join(chunks))
        return found

    def events(self, **equal: Any) -> list[View]:
        """Oldest first."""
        return list(reversed(audit.search(self.rt, self.who("olga"), AuditFilter(limit=200, **equal))["events"]))

    def event_types(self, request: View) -> list[str]:
        return [event["event_type"] for event in self.events(request_id=request["id"])]

    def verify(self) -> View:
        return audit.verify(self.rt, self.who("olga"))

    def keep_house(self) -> None:
        housekeeping.sweep_leases(self.rt)
        housekeeping.time_out_dispatches(self.rt)
        housekeeping.expire(self.rt)

    def agent(self, session: str = "session-1", **options: Any) -> Agent:
        return Agent(self, self.who("agent"), session, **options)

    def executed(self, name: str = "alice", environment: str = "auto", **body: Any) -> View:
        """A request that an agent has run, with two rows."""
        made = self.create(name, environment, **body)
        if made["status"] == "pending":
            self.approve("bob", made)
            made |= self.resume(name, made)
        self.agent().run(made)
        return made


@dataclass
class Agent:
    """What an agent process does, one call at a time."""

    world: World
    who: Principal
    session: str
    instance: str = "one"
    dialects: dict[Target, Dialect] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    claim_id: str = ""
    nonce: str = "nonce-of-this-very-job"

    def __post_init__(self) -> None:
        self.node = agents.report(self.rt, self.who, self.report()).node

    @property
    def rt(self) -> Runtime:
        return self.world.rt

    def targets(self) -> list[Target]:
        found = [Target("app", environment) for environment in ENVIRONMENTS]
        return [t for t in found if t in self.who.scopes or Target("*", "*") in self.who.scopes]

    def report(self, **changes: Any) -> AgentReport:
        said = AgentReport(
            instance=self.instance,
            session=self.session,
            protocol=PROTOCOL,
            version="1.0.0",
            databases=[
                ServedDatabase(
                    database=target.database,
                    environment=target.environment,
                    dialect=self.dialects.get(target, Dialect.SQLITE),
                    status="up",
                )
                for target in self.targets()
            ],
            operations=[Operation.EXECUTE_SELECT, Operation.EXECUTE_DML],
            max_concurrent=4,
            in_flight=0,
            started_at=self.world.clock(),
        )
        return said.model_copy(update=changes)

    def fetch(self, task: str = EXECUTE_TASK) -> list[str]:
        """Take every message that is ready; the ids of those jobs that are for `task`."""
        queues = [f"job.{target.database}.{target.environment}" for target in self.targets()]
        have = list(self.tags.values())
        ask = Fetch(session=self.session, seq=next(_polls), groups=[Group(queues=queues)], have=have)
        found = broker.fetch(self.rt, self.who, ask, gone=lambda: False)
        jobs = [(message.message["headers"], str(message.tag)) for message in found.messages]
        self.tags |= {headers["id"]: tag for headers, tag in jobs}
        return [headers["id"] for headers, _ in jobs if headers["task"] == task]

    def claim(self, request: View) -> Claimed:
        asked = ClaimRequest(session=self.session, tag=self.tags.get(self.id_of(request), "no tag"))
        claimed = executions.claim(self.rt, self.who, self.id_of(request), asked)
        self.claim_id = claimed.claim_id
        return claimed

    def start(self, request: View, *, nonce: str | None = None) -> Renewed:
        asked = StartRequest(claim_id=self.claim_id, nonce=nonce or self.nonce)
        return executions.start(self.rt, self.who, self.id_of(request), asked)

    def begin(self, request: View) -> Claimed:
        """Everything up to the statement itself."""
        assert self.id_of(request) in self.fetch()
        claimed = self.claim(request)
        self.start(request)
        return claimed

    def renew(self, request: View) -> Renewed:
        return executions.renew(self.rt, self.who, self.id_of(request), RenewRequest(claim_id=self.claim_id))

    def release(self, request: View, delay_secs: int = 0) -> None:
        asked = ReleaseRequest(claim_id=self.claim_id, reason="database is down", delay_secs=delay_secs)
        executions.release(self.rt, self.who, self.id_of(request), asked)

    def part(self, request: View, data: bytes, offset: int = 0) -> int:
        where = {"claim_id": self.claim_id, "offset": offset, "data": data}
        return executions.store_part(self.rt, self.who, self.id_of(request), **where).size

    def complete(
        self, request: View, outcome: Any = "completed", stream: bytes | None = None, **said: Any
    ) -> Completed:
        if stream is not None:
            said = {"result_size": len(stream), "result_sha256": sha256(stream).hexdigest()} | said
        if outcome == "failed":
            said.setdefault("error", WireError(code="statement.failed", message="no such table: t"))
        report = CompleteRequest(claim_id=self.claim_id, outcome=outcome, duration_ms=3, **said)
        return completion.complete(self.rt, self.who, said.get("execution_id") or self.id_of(request), report)

    def run(self, request: View, rows: list[list[Any]] | None = None) -> Completed:
        """From the message to the report, with a result."""
        self.begin(request)
        stream = stream_of([[1, "a"], [2, "b"]] if rows is None else rows)
        self.part(request, stream)
        return self.complete(request, stream=stream, row_count=2)

    def id_of(self, request: View) -> str:
        return str(request["execution_id"])


def stream_of(rows: list[list[Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in ({"columns": COLUMNS}, *rows))


def refused(call: Callable[[], Any]) -> str:
    """The code of the refusal that `call` must end in."""
    with pytest.raises(DbwardError) as caught:
        call()
    return caught.value.code
