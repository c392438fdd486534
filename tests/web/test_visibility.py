"""Nobody learns of what they may not see: every answer of the API held against the rules, written down a second time.

The oracle below knows people, requests and the rules only; it calls nothing of the product.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from dbward import ids
from dbward.client.wire import ActiveJob
from dbward.domain.model import Target
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import agents, bootstrap, housekeeping
from dbward.settings.server import load_server
from tests.conftest import State
from tests.services.conftest import Agent, Clock, World
from tests.web.conftest import Caller
from web.app import create_app

ANY = ("*",)


@dataclass(frozen=True)
class Role:
    """Permissions as the configuration spells them, where they hold."""

    grants: tuple[str, ...]
    environments: tuple[str, ...] = ANY


ROLES = {
    "requester": Role(
        (
            *("request.query", "request.dml", "request.ddl", "request.view", "request.cancel", "request.resume"),
            *("result.view", "schema.read"),
        )
    ),
    "approver": Role(("request.view", "result.view", "schema.read")),
    "operator": Role(
        ("request.view:any", "request.cancel:any", "request.resume:any", "result.view:any", "metrics.view")
    ),
    "admin": Role(("metrics.view", "audit.read")),
    "watcher": Role(("request.view", "result.view")),
    "auditor": Role(("request.view:any", "result.view:any"), ("auto",)),
    "reader": Role(("result.view",)),
    "canceller": Role(("request.view", "request.cancel:any"), ("prod",)),
    "gauge": Role(("metrics.view",)),
}
CUSTOM = ("watcher", "auditor", "reader", "canceller", "gauge")

PEOPLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "alice": (("requester",), ()),
    "rita": (("requester",), ()),
    "bob": (("approver",), ()),
    "beth": (("approver",), ()),
    "dana": ((), ("dba",)),
    "olga": (("operator",), ()),
    "audrey": (("auditor",), ()),
    "rob": (("reader",), ()),
    "carl": (("canceller",), ()),
    "greg": (("gauge",), ()),
    "both": (("requester", "approver"), ()),
    "adam": (("admin",), ()),
}
GROUPS = {"dba": ("watcher",)}
ACCESS = {"prod": ("group:dba",), "auto": ("role:reader",)}
ENVIRONMENTS = ("auto", "prod", "steps", "own")

POLICY = f"""
[[databases]]
name = "app"
dialect = "sqlite"
environments = {json.dumps(ENVIRONMENTS)}

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
approvers = [{{ user = "bob" }}]
[[workflows.steps]]
approvers = [{{ group = "dba" }}]

[[workflows]]
environment = "own"
allow_self_approve = true
[[workflows.steps]]
approvers = [{{ role = "requester" }}]

[[result_policies]]
environment = "prod"
access = ["group:dba"]

[[result_policies]]
environment = "auto"
access = ["role:reader"]

[[auth.groups]]
name = "dba"
roles = ["watcher"]

[result_storage]
backend = "local"
"""


@dataclass
class Thing:
    """A request as the oracle knows it."""

    id: str
    requester: str
    environment: str
    status: str
    step: tuple[str, ...] = ()
    deciders: set[str] = field(default_factory=set)
    share_with: tuple[str, ...] = ()
    stored: bool = False


def roles(name: str) -> list[Role]:
    direct, groups = PEOPLE[name]
    return [ROLES[role] for role in (*direct, *(r for group in groups for r in GROUPS[group]))]


def selectors(name: str) -> set[str]:
    direct, groups = PEOPLE[name]
    named = (*direct, *(r for group in groups for r in GROUPS[group]))
    return {f"user:{name}", *(f"role:{role}" for role in named), *(f"group:{group}" for group in groups)}


def reach(name: str, permission: str, environment: str | None) -> str | None:
    """`any`, `own`, or None; environment None asks whether it is held anywhere."""
    found = {
        grant.partition(":")[2] or "own"
        for role in roles(name)
        if environment is None or role.environments == ANY or environment in role.environments
        for grant in role.grants
        if grant.partition(":")[0] == permission
    }
    return "any" if "any" in found else "own" if found else None


def awaited(name: str, thing: Thing) -> bool:
    return thing.status == "pending" and bool(set(thing.step) & selectors(name))


def sees(name: str, thing: Thing) -> bool:
    how = reach(name, "request.view", thing.environment)
    theirs = name == thing.requester or awaited(name, thing) or name in thing.deciders
    return how == "any" or (how == "own" and theirs)


def reads(name: str, thing: Thing) -> bool:
    how = reach(name, "result.view", thing.environment)
    shared = {*thing.share_with, *ACCESS.get(thing.environment, ())} & selectors(name)
    return how == "any" or (how == "own" and (name == thing.requester or name in thing.deciders or bool(shared)))


def changes(name: str, permission: str, thing: Thing) -> bool:
    how = reach(name, permission, thing.environment)
    return how == "any" or (how == "own" and name == thing.requester)


def decides(name: str, thing: Thing) -> bool:
    """Whether it waits for this person and is not their own, or may be."""
    return awaited(name, thing) and (name != thing.requester or thing.environment == "own")


@dataclass
class Scene:
    rt: Runtime
    app: Flask
    world: World
    things: dict[str, Thing]
    tokens: dict[str, str]

    def call(self, name: str) -> Caller:
        return Caller(self.app, self.tokens[name])

    def ids(self, test: Any) -> set[str]:
        return {thing.id for thing in self.things.values() if test(thing)}


@pytest.fixture
def scene(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokens = {name: ids.new_token() for name in PEOPLE}
    for name, token in tokens.items():
        monkeypatch.setenv(f"T_{name.upper()}", token)
    custom = "".join(
        f'\n[[auth.roles]]\nname = "{name}"\npermissions = {json.dumps(ROLES[name].grants)}\n'
        f"environments = {json.dumps(ROLES[name].environments)}\n"
        for name in CUSTOM
    )
    users = "".join(
        f'\n[[auth.users]]\nid = "{name}"\nroles = {json.dumps(direct)}\ngroups = {json.dumps(groups)}\n'
        f'token = "${{T_{name.upper()}}}"\n'
        for name, (direct, groups) in PEOPLE.items()
    )
    path = tmp_path / "server.toml"
    home = json.dumps(str(tmp_path / "state"))
    path.write_text(f"state_dir = {home}\n[state]\nurl = {json.dumps(state.url)}\n{POLICY}{custom}{users}")
    settings = load_server(path)
    clock = Clock()
    bootstrap.prepare(settings, now=clock)
    rt = open_runtime(settings, now=clock)
    try:
        world = World(rt, clock)
        yield Scene(rt, create_app(Current(rt)), world, furnish(world), tokens)
    finally:
        rt.close()


class Hands(Agent):
    """An agent that serves the environments of this scene."""

    def targets(self):
        return [Target("app", environment) for environment in ENVIRONMENTS]


def furnish(world: World) -> dict[str, Thing]:
    """Requests of several people in every status, some shared, some with results."""
    things: dict[str, Thing] = {}
    agent = Hands(world, world.who("agent"), "session-1")

    def make(key: str, name: str, environment: str, **body: Any) -> dict[str, Any]:
        made = world.create(name, environment, **body)
        step = {"prod": ("role:approver",), "steps": ("user:bob",), "own": ("role:requester",)}.get(environment, ())
        shared = tuple(body.get("share_with", ()))
        things[key] = Thing(made["id"], name, environment, made["status"], step=step, share_with=shared)
        world.clock.advance(seconds=1)
        return made

    def decided(key: str, name: str, status: str, step: tuple[str, ...] = ()) -> None:
        things[key].status, things[key].step = status, step
        things[key].deciders.add(name)

    make("expired", "alice", "prod")
    world.clock.advance(days=2)
    housekeeping.expire(world.rt)
    things["expired"].status = "expired"
    lost = make("lost", "rita", "auto")
    agent.begin(lost)
    world.clock.advance(days=1)
    housekeeping.sweep_leases(world.rt)
    things["lost"].status = "execution_lost"
    agents.report(world.rt, agent.who, agent.report())

    for key, name, shared in (
        ("shared", "alice", ["user:rita", "role:watcher"]),
        ("grouped", "rita", ["group:dba"]),
        ("other case", "alice", ["user:RITA", 'user:"rita"', "user:rita2"]),
    ):
        agent.run(make(key, name, "auto", share_with=shared))
        things[key].status, things[key].stored = "executed", True
    failed = make("failed", "both", "auto")
    agent.begin(failed)
    agent.complete(failed, "failed")
    things["failed"].status = "failed"

    ran = make("ran", "rita", "prod")
    world.approve("bob", ran)
    decided("ran", "bob", "executed")
    agent.run(world.resume("rita", ran))
    things["ran"].stored = True

    world.approve("bob", make("approved", "alice", "prod"))
    decided("approved", "bob", "approved")
    world.reject("beth", make("rejected", "rita", "prod"))
    decided("rejected", "beth", "rejected")
    world.cancel("both", make("cancelled", "both", "prod"))
    things["cancelled"].status = "cancelled"
    make("waiting", "alice", "prod")
    make("waiting for others", "both", "prod")
    make("first step", "rita", "steps")
    world.approve("bob", make("second step", "alice", "steps"))
    decided("second step", "bob", "pending", ("group:dba",))
    make("own decision", "alice", "own")
    agent.begin(make("running", "alice", "auto"))
    things["running"].status = "running"
    make("dispatched", "both", "auto")
    agents.report(
        world.rt,
        agent.who,
        agent.report(
            active_jobs=[ActiveJob(request_id=things["running"].id, operation="execute_select", elapsed_secs=1)]
        ),
    )
    return things


def same(answer: Any, unknown: Any, asked: str, other: str) -> None:
    """Byte for byte the answer about an id that nothing has, up to that id."""
    assert answer.status_code == unknown.status_code == 404
    assert answer.data.replace(asked.encode(), b"ID") == unknown.data.replace(other.encode(), b"ID")
    counted = {"RateLimit", "Content-Length"}  # one call more, one id longer
    heads = [[pair for pair in it.headers if pair[0] not in counted] for it in (answer, unknown)]
    assert heads[0] == heads[1]


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/executions"])
def test_what_may_not_be_seen_is_not_there(scene: Scene, path: str) -> None:
    nothing = ids.new_id()
    for name in PEOPLE:
        call = scene.call(name)
        unknown = call.get(f"/api/requests/{nothing}{path}")
        for key, thing in scene.things.items():
            answer = call.get(f"/api/requests/{thing.id}{path}")
            short = call.get(f"/api/requests/{thing.id[:18]}{path}")
            if reach(name, "request.view", None) is None:
                assert answer.status_code == short.status_code == unknown.status_code == 403
                assert answer.data == unknown.data
            elif sees(name, thing):
                assert answer.status_code == short.status_code == 200, (name, key)
                assert answer.json == short.json
                if path == "":
                    assert (answer.json["id"], answer.json["status"]) == (thing.id, thing.status), key
            else:
                same(answer, unknown, thing.id, nothing)
                same(short, unknown, thing.id[:18], nothing)


def test_short_ids_mean_one_of_those_seen(scene: Scene) -> None:
    for name in PEOPLE:
        if reach(name, "request.view", None) is None:
            continue
        for digit in "0123456789abcdef":
            found = sorted(it for it in scene.ids(lambda t, n=name: sees(n, t)) if it.startswith(digit))
            answer = scene.call(name).get(f"/api/requests/{digit}")
            assert answer.status_code == (404, 200, 409)[min(len(found), 2)], (name, digit)
            if len(found) == 1:
                assert answer.json["id"] == found[0]


# --- lists ------------------------------------------------------------------------------------------------------------


def listed(scene: Scene, name: str, **query: Any) -> set[str]:
    """Every id of a list, read in pages of four, which must agree with its total and with each other."""
    found: list[str] = []
    while True:
        page = scene.call(name).get("/api/requests", query_string={**query, "limit": 4, "offset": len(found)}).json
        found += [item["id"] for item in page["requests"]]
        if not page["requests"]:
            assert page["total"] == len(found) == len(set(found))
            return set(found)


FILTERS: list[tuple[dict[str, str], Any]] = [
    ({}, lambda t: True),
    *(({"status": s}, lambda t, s=s: t.status == s) for s in ("pending", "executed", "rejected", "running", "expired")),
    *(({"user": u}, lambda t, u=u: t.requester == u) for u in ("alice", "rita", "nobody")),
    *(({"environment": e}, lambda t, e=e: t.environment == e) for e in ("auto", "prod")),
    ({"database": "other"}, lambda t: False),
    ({"database": "app", "operation": "execute_select"}, lambda t: True),
    ({"operation": "execute_dml"}, lambda t: False),
    ({"status": "pending", "user": "alice"}, lambda t: t.status == "pending" and t.requester == "alice"),
]


def test_lists_hold_what_may_be_seen_whatever_the_filter(scene: Scene) -> None:
    for name in PEOPLE:
        if reach(name, "request.view", None) is None:
            assert scene.call(name).get("/api/requests").status_code == 403
            continue
        for query, passes in FILTERS:
            expected = scene.ids(lambda t, n=name, p=passes: sees(n, t) and p(t))
            assert listed(scene, name, **query) == expected, (name, query)


def test_what_waits_for_me_goes_with_the_other_filters(scene: Scene) -> None:
    mine = {"pending_for_me": "true"}
    for name in PEOPLE:
        if reach(name, "request.view", None) is None:
            continue

        def waits(thing: Thing, name: str = name) -> bool:
            return sees(name, thing) and decides(name, thing)

        assert listed(scene, name, **mine) == scene.ids(waits), name
        for query, passes in FILTERS:
            expected = scene.ids(lambda t, w=waits, p=passes: w(t) and p(t))
            assert listed(scene, name, **mine, **query) == expected, (name, query)
    assert listed(scene, "bob", **mine), "the scene holds something that waits"


def test_an_unknown_status_or_operation_is_an_error(scene: Scene) -> None:
    for query in ("status=lost", "status=", "operation=drop"):
        assert scene.call("alice").get(f"/api/requests?{query}").status_code == 400, query


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_are_asked_who_reads_before_what_there_is(scene: Scene) -> None:
    nothing = ids.new_id()
    for name in PEOPLE:
        call = scene.call(name)
        for way in ("content", "stream"):
            unknown = call.get(f"/api/requests/{nothing}/result/{way}")
            for key, thing in scene.things.items():
                if reads(name, thing) and way == "stream" and not thing.stored:
                    continue  # it would wait
                answer = call.get(f"/api/requests/{thing.id}/result/{way}")
                if reach(name, "result.view", None) is None:
                    assert answer.status_code == 403
                    assert answer.data == unknown.data
                elif reads(name, thing):
                    assert answer.status_code in ((200,) if thing.stored else (200, 404)), (name, key)
                elif sees(name, thing):
                    assert answer.status_code == 403, (name, key)
                else:
                    same(answer, unknown, thing.id, nothing)


def test_the_list_of_results_is_what_can_be_opened(scene: Scene) -> None:
    for name in PEOPLE:
        answer = scene.call(name).get("/api/results")
        if reach(name, "result.view", None) is None:
            assert answer.status_code == 403
            continue
        found = answer.json["results"]
        assert {item["request_id"] for item in found} == scene.ids(lambda t, n=name: t.stored and reads(n, t)), name
        assert answer.json["total"] == len(found)
        for item in found:
            path = f"/api/requests/{item['request_id']}/result/content?execution_id={item['execution_id']}"
            assert scene.call(name).get(path).status_code == 200


# --- changes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["approve", "reject", "cancel", "resume"])
def test_a_change_of_what_may_not_be_seen_is_none_and_is_recorded(scene: Scene, verb: str) -> None:
    nothing = ids.new_id()
    recorded = 0
    for name in PEOPLE:
        call = scene.call(name)
        unknown = call.post(f"/api/requests/{nothing}/{verb}", {})
        permission = f"request.{verb}" if verb in ("cancel", "resume") else None
        for key, thing in scene.things.items():
            may = changes(name, permission, thing) if permission else awaited(name, thing)
            if permission is not None and reach(name, permission, None) is None:
                answer = call.post(f"/api/requests/{thing.id}/{verb}", {})
                assert answer.status_code == 403
                assert answer.data == unknown.data
            elif not may and not sees(name, thing):
                answer = call.post(f"/api/requests/{thing.id}/{verb}", {})
                same(answer, unknown, thing.id, nothing)
                same(call.post(f"/api/requests/{thing.id[:18]}/{verb}", {}), unknown, thing.id[:18], nothing)
                recorded += 1
            elif not may and (permission is not None or thing.status == "pending"):
                assert call.post(f"/api/requests/{thing.id}/{verb}", {}).status_code == 403, (name, key)
    for thing in scene.things.values():
        assert scene.call("olga").get(f"/api/requests/{thing.id}").json["status"] == thing.status
    hidden = "/api/audit/events?event_type=request.refused&limit=200&offset="
    events = [e for at in (0, 200, 400) for e in scene.call("adam").get(f"{hidden}{at}").json["events"]]
    assert sum("neither visible" in (e["reason"] or "") for e in events) == recorded > 0


# --- agents -----------------------------------------------------------------------------------------------------------


def test_agents_are_shown_without_requests_that_may_not_be_seen(scene: Scene) -> None:
    running = scene.things["running"]
    for name in ("olga", "greg", "adam"):
        [agent] = scene.call(name).get("/api/agents").json["agents"]
        expected = running.id if sees(name, running) else None
        assert [job["request_id"] for job in agent["active_jobs"]] == [expected], name
    assert sees("olga", running)
    assert not sees("greg", running)


# --- submitting -------------------------------------------------------------------------------------------------------


def test_who_may_not_submit_learns_nothing_of_the_target_or_the_statement(scene: Scene) -> None:
    for name in ("bob", "audrey", "greg"):
        answers = {
            scene.call(name)
            .post("/api/requests", {"database": database, "environment": "auto", "detail": detail})
            .data.replace(database.encode(), b"NAME")
            for database in ("app", "nowhere")
            for detail in ("SELECT 1", "DROP TABLE t", "SELEC", "")
        }
        assert len(answers) == 1, name
        assert json.loads(answers.pop())["code"] == "forbidden"
