"""What Prometheus is told: every counter is really raised by what it says, and shared state is what the state says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, update

from dbward.client.shapes import NewRequest
from dbward.db import connect
from dbward.db.engine import Store
from dbward.db.tables import audit_head, requests
from dbward.domain.model import Target
from dbward.errors import DbwardError
from dbward.metrics import OTHER, Metrics
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import agents, housekeeping, monitoring
from dbward.services import requests as use_cases
from dbward.services.housekeeping import Housekeeper
from dbward.settings.server import StateSettings
from tests.services.conftest import World, refused, stream_of
from tests.support import cloudformation

ROOT = Path(__file__).parents[2]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(rt: Runtime) -> Samples:
    """Every sample of an answer to Prometheus, read by its own parser."""
    families = text_string_to_metric_families(monitoring.exposition(rt).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def moved(samples: Samples, environment: str) -> dict[str, float]:
    """Requests of one environment by the statuses they were given."""
    found = {}
    for (name, labels), count in samples.items():
        said = dict(labels)
        if name == "dbward_requests_total" and said["environment"] == environment:
            found[said["status"]] = count
    return found


def test_a_request_counts_with_each_status_it_is_given(world: World) -> None:
    world.executed(environment="prod")
    assert moved(scrape(world.rt), "prod") == {
        "pending": 1,
        "approved": 1,
        "dispatched": 1,
        "running": 1,
        "executed": 1,
    }
    made = world.create(environment="steps")
    world.approve("bob", made)  # a step of several: it stays pending
    world.reject("beth", made)
    assert moved(scrape(world.rt), "steps") == {"pending": 1, "rejected": 1}
    world.executed()
    found = moved(scrape(world.rt), "auto")
    assert found == {"auto_approved": 1, "dispatched": 1, "running": 1, "executed": 1}


def test_what_was_undone_is_not_counted(world: World) -> None:
    body = {"idempotency_key": "k"}
    world.create(**body)
    world.create(**body)
    assert refused(lambda: world.create(detail="SELECT 2", **body)) == "request.conflict"
    assert moved(scrape(world.rt), "auto") == {"auto_approved": 1, "dispatched": 1}


def test_decisions_and_how_long_they_took(world: World) -> None:
    first, second = world.create(environment="prod"), world.create(environment="prod")
    world.clock.advance(seconds=200)
    world.approve("bob", first)
    world.reject("bob", second)
    found = scrape(world.rt)
    assert value(found, "dbward_approvals_total", action="approve") == 1
    assert value(found, "dbward_approvals_total", action="reject") == 1
    assert value(found, "dbward_approval_wait_seconds_count") == 1
    assert value(found, "dbward_approval_wait_seconds_sum") == 200
    assert value(found, "dbward_approval_wait_seconds_bucket", le="120.0") == 0
    assert value(found, "dbward_approval_wait_seconds_bucket", le="300.0") == 1


@pytest.mark.parametrize("outcome", ["completed", "failed", "unknown"])
def test_executions_by_how_they_ended(world: World, outcome: str) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    stream = stream_of([[1, "a"]]) if outcome == "completed" else None
    if stream is not None:
        agent.part(made, stream)
    for _ in range(2):  # the retry of a lost answer counts no second time
        agent.complete(made, outcome, stream=stream)
    found = scrape(world.rt)
    assert value(found, "dbward_agent_executions_total", status=outcome) == 1
    where = {"database": "app", "environment": "auto"}
    assert value(found, "dbward_execution_duration_seconds_count", **where) == 1
    assert value(found, "dbward_execution_duration_seconds_sum", **where) == 0.003
    assert value(found, "dbward_result_storage_total", status="stored") == (1 if stream is not None else 0)


def test_what_never_ran_has_no_duration(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    agent.complete(made, "refused")
    found = scrape(world.rt)
    assert value(found, "dbward_agent_executions_total", status="refused") == 1
    assert value(found, "dbward_execution_duration_seconds_count", database="app", environment="auto") == 0


def test_agents_that_are_not_heard_of_any_more(world: World) -> None:
    started, claimed = world.create(), world.create()
    agent = world.agent()
    agent.begin(started)
    agent.claim(claimed)
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    found = scrape(world.rt)
    assert value(found, "dbward_agent_lease_expirations_total") == 2
    assert value(found, "dbward_agent_executions_total", status="lost") == 1


def test_results_that_do_not_arrive_and_results_whose_time_is_over(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    assert refused(lambda: agent.complete(made, result_size=5, result_sha256="0" * 64))
    assert value(scrape(world.rt), "dbward_result_storage_total", status="failed") == 1
    stream = stream_of([[1, "a"]])
    agent.part(made, stream)
    agent.complete(made, stream=stream)
    world.clock.advance(days=31)
    housekeeping.purge(world.rt)
    found = scrape(world.rt)
    assert value(found, "dbward_result_storage_total", status="stored") == 1
    assert value(found, "dbward_result_storage_total", status="purged") == 1


def test_credentials_that_are_none(world: World) -> None:
    for bearer, reason in ((None, "missing"), ("short", "malformed"), ("dbw_" + "0" * 32, "unknown")):
        with pytest.raises(DbwardError):
            world.enter(bearer)  # type: ignore[arg-type]
        assert value(scrape(world.rt), "dbward_auth_failures_total", reason=reason) == 1
    for _ in range(20):  # counted, though not all of it goes on the record
        with pytest.raises(DbwardError):
            world.enter("dbw_" + "0" * 32)
    assert value(scrape(world.rt), "dbward_auth_failures_total", reason="unknown") == 21


def test_an_emergency_that_cannot_be_put_on_the_record_does_not_run_and_counts(world: World) -> None:
    world.create("olga", emergency=True, reason="fire")
    found = scrape(world.rt)
    assert value(found, "dbward_break_glass_total") == 1
    assert moved(found, "auto") == {"break_glass": 1, "dispatched": 1}
    olga = world.who("olga")
    world.rt.store.write(lambda tx: tx.conn.execute(delete(audit_head)))
    body = NewRequest(database="app", environment="auto", detail="SELECT 1", emergency=True, reason="fire")
    with pytest.raises(DbwardError):
        use_cases.create(world.rt, olga, body)
    found = scrape(world.rt)
    assert value(found, "dbward_break_glass_audit_failure_total") == 1
    assert value(found, "dbward_break_glass_total") == 1


def test_a_refused_emergency_is_no_failure_of_the_record(world: World) -> None:
    with pytest.raises(DbwardError):
        world.create("alice", emergency=True, reason="fire")
    assert value(scrape(world.rt), "dbward_break_glass_audit_failure_total") == 0


def test_background_work_that_fails_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.create(environment="many")
    world.rt.store.write(
        lambda tx: tx.conn.execute(update(requests).where(requests.c.id == made["id"]).values(workflow={"id": 7}))
    )
    world.clock.advance(seconds=301)
    housekeeping.time_out_dispatches(world.rt)
    assert value(scrape(world.rt), "dbward_background_panics_total") == 1

    def fail(_: object) -> None:
        raise OSError("on purpose")

    Housekeeper(Current(world.rt))._attempt(fail)
    assert value(scrape(world.rt), "dbward_background_panics_total") == 2


def test_the_audit_log_grows_by_what_is_counted(world: World) -> None:
    before = scrape(world.rt)
    world.create()
    after = scrape(world.rt)
    grown = value(after, "dbward_audit_head_sequence") - value(before, "dbward_audit_head_sequence")
    counted = value(after, "dbward_audit_appends_total") - value(before, "dbward_audit_appends_total")
    assert grown == counted > 0


def test_what_is_under_way_is_read_from_the_state(world: World) -> None:
    world.create(environment="prod")
    world.approve("bob", world.create(environment="prod"))
    running, waiting = world.create(), world.create(environment="many")
    agent = world.agent()
    agent.begin(running)
    found = scrape(world.rt)
    assert {status: value(found, "dbward_requests_current", status=status) for status in monitoring.OPEN} == {
        "pending": 1,
        "approved": 1,
        "dispatched": 1,
        "running": 1,
    }
    assert waiting["status"] == "dispatched"


def test_queues_and_the_age_of_their_oldest_job(world: World) -> None:
    world.create()
    world.clock.advance(seconds=30)
    world.create()
    world.create(environment="many")
    world.clock.advance(seconds=5)
    found = scrape(world.rt)
    assert value(found, "dbward_queue_depth", queue="job.app.auto") == 2
    assert value(found, "dbward_queue_oldest_seconds", queue="job.app.auto") == 35
    assert value(found, "dbward_queue_depth", queue="job.app.many") == 1
    assert value(found, "dbward_queue_oldest_seconds", queue="job.app.many") == 5
    assert value(found, "dbward_queue_depth", queue="job.app.stream") == 0
    assert value(found, "dbward_queue_oldest_seconds", queue="job.app.stream") == 0


def test_agents_by_status(world: World) -> None:
    busy = world.agent("session-1", instance="one")
    world.agent("session-2", instance="two")
    leaving = world.agent("session-3", instance="three")
    agents.report(world.rt, busy.who, busy.report(in_flight=4))
    agents.report(world.rt, leaving.who, leaving.report(draining=True))
    found = scrape(world.rt)
    by_status = {status: value(found, "dbward_agents", status=status) for status in monitoring.AGENT_STATUSES}
    assert by_status == {"healthy": 1, "saturated": 1, "draining": 1, "offline": 0}
    assert value(found, "dbward_agents_active") == 2
    assert value(found, "dbward_agents_saturated") == 1
    world.clock.advance(seconds=61)
    found = scrape(world.rt)
    assert value(found, "dbward_agents", status="offline") == 3
    assert value(found, "dbward_agents_active") == 0


def test_metrics_for_cloudwatch_are_one_line_where_they_are_wanted(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    housekeeping.measure(world.rt)
    assert capsys.readouterr().out == ""
    rt = replace(world.rt, settings=replace(world.rt.settings, emf_namespace="dbward/blue"))
    busy = world.agent("session-1", instance="one")
    for session, gone in (("session-2", True), ("session-3", False)):
        agent = world.agent(session, instance=session)
        agents.report(rt, agent.who, agent.report(draining=gone))
    world.clock.advance(seconds=50)
    world.create()
    world.clock.advance(seconds=20)
    agents.report(rt, busy.who, busy.report(in_flight=4))
    housekeeping.measure(rt)
    line, end, rest = capsys.readouterr().out.partition("\n")
    assert (end, rest) == ("\n", "")
    said = json.loads(line)
    about = said.pop("_aws")
    assert said == {
        "AgentsActive": 1,
        "AgentsSaturated": 1,
        "AgentsOffline": 1,  # and not the one that said goodbye
        "QueueDepth": 1,
        "QueueOldestSeconds": 20,
    }
    assert about["Timestamp"] == int(world.clock().timestamp() * 1000)
    (directive,) = about["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("dbward/blue", [[]])
    assert {metric["Name"] for metric in directive["Metrics"]} == said.keys()
    template = cloudformation.read(ROOT / "deploy/ecs/monitoring.yaml")["Resources"].values()
    alarms = [each["Properties"] for each in template if each["Type"] == "AWS::CloudWatch::Alarm"]
    ours = [alarm for alarm in alarms if alarm["Namespace"] == {"Fn::Sub": "dbward/${ClusterName}"}]
    assert len(ours) == 4
    assert {alarm["MetricName"] for alarm in ours} <= said.keys()
    assert not any("Dimensions" in alarm for alarm in ours)
    world.clock.advance(hours=1)
    housekeeping.measure(rt)
    assert json.loads(capsys.readouterr().out)["AgentsOffline"] == 1, "the one that was busy is missed now"


def test_names_that_are_not_configured_become_one(world: World) -> None:
    metrics = Metrics({Target("app", "production")})
    for target in (Target("app", "production"), Target("x", "y"), Target("z", "production")):
        metrics.request_moved("pending", target)
        metrics.executed(target, 1.0)
    found = {
        (sample.labels["database"], sample.labels["environment"]): sample.value
        for family in metrics.families()
        for sample in family.samples
        if sample.name == "dbward_requests_total"
    }
    assert found == {("app", "production"): 1, (OTHER, OTHER): 2}


def test_replicas_say_the_same_of_what_they_share_and_count_apart(world: World) -> None:
    if world.rt.store.dialect != "postgresql":
        pytest.skip("SQLite has one owner")
    other = open_runtime(world.rt.settings, now=world.clock)
    try:
        world.create(environment="prod")
        one, two = scrape(world.rt), scrape(other)
        for name in ("dbward_requests_current", "dbward_audit_head_sequence", "dbward_queue_depth", "dbward_agents"):
            assert {k: v for k, v in one.items() if k[0] == name} == {k: v for k, v in two.items() if k[0] == name}
        assert (moved(one, "prod"), moved(two, "prod")) == ({"pending": 1}, {})
    finally:
        other.close()


def test_without_its_database_a_server_still_tells_what_it_counted(world: World) -> None:
    world.create()
    nowhere = StateSettings("postgresql://nobody@127.0.0.1:1/nothing")
    store = Store(
        connect.writer_engine(nowhere), connect.reader_engine(nowhere), on_wake=never, on_moved=never, on_fatal=never
    )
    try:
        found = scrape(replace(world.rt, store=store))
    finally:
        store.close()
    assert moved(found, "auto") == {"auto_approved": 1, "dispatched": 1}
    assert value(found, "dbward_state_up") == 0
    assert ("dbward_state_up", frozenset()) in found
    assert not any(name == "dbward_requests_current" for name, _ in found)


def never(_: object) -> None:
    raise AssertionError
