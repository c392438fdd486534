"""Preflight, policy resolution, blocked submissions and break-glass: one verdict, wherever it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dbward.client.shapes import NewPreflight
from dbward.domain.model import Principal
from dbward.errors import DbwardError, Invalid, RateLimited, Refused, TooLarge
from dbward.services import monitoring, preflight
from dbward.services.views import View
from dbward.settings.server_features import Preflight
from tests.services.conftest import World


def chief(world: World) -> Principal:
    """Somebody who may do what alice and olga may."""
    alice = world.who("alice")
    return replace(alice, roles=alice.roles + world.who("olga").roles)


def ask(world: World, name: str = "alice", environment: str = "auto", sql: str = "SELECT 1", **body: Any) -> View:
    asked = NewPreflight.model_validate({"database": "app", "environment": environment, "sql": sql} | body)
    who = world.who(name)
    verdict = preflight.judge(world.rt, who, asked)
    return preflight.finish(world.rt, who, verdict, preflight.SKIPPED)


def test_a_read_that_may_be_submitted(world: World) -> None:
    seen = ask(world)
    assert (seen["status"], seen["risk"], seen["retryable"]) == ("requestable", "low", False)
    assert seen["classification"] == {
        "statement_type": "SELECT",
        "operation": "execute_select",
        "mutating": False,
        "ddl": False,
        "requires_ddl_permission": False,
        "multi_statement": False,
        "statement_count": 1,
        "reasons": [],
    }
    assert seen["policy"]["caller_can_submit"]
    assert seen["policy"]["would_auto_approve"]
    assert not seen["policy"]["requires_approval"]
    assert seen["next_actions"] == []


@pytest.mark.parametrize(
    ("environment", "sql"),
    [
        ("auto", "SELECT 1"),
        ("auto", "UPDATE t SET a = 1 WHERE id = 1"),
        ("prod", "SELECT 1"),
        ("steps", "UPDATE t SET a = 1 WHERE id = 1"),
        ("risk", "SELECT 1"),
        ("risk", "UPDATE t SET a = 1 WHERE id = 1"),
        ("risk", "CREATE TABLE t (a int)"),
        ("risk", "SELECT refund(1)"),
    ],
)
def test_a_preflight_says_what_submitting_then_does(world: World, environment: str, sql: str) -> None:
    said = ask(world, environment=environment, sql=sql)["policy"]
    made = world.create(environment=environment, detail=sql)
    assert (said["would_auto_approve"], said["requires_approval"]) == (
        made["status"] == "dispatched",
        made["status"] == "pending",
    )
    flow = world.show(made)["decision_trace"]["workflow"]["matched"]
    assert said["workflow_id"] == flow["id"]


def test_nothing_is_stored_but_the_event(world: World) -> None:
    ask(world, sql="UPDATE t SET a = 'secret' WHERE id = 1")
    assert world.listed("alice") == set()
    (event,) = world.events(event_type="preflight.attempted")
    assert (event["actor_id"], event["database_name"], event["environment"]) == ("alice", "app", "auto")
    assert event["detail_fingerprint"] == "UPDATE t SET a = ? WHERE id = ?"
    assert event["metadata"] == {
        "status": "requestable",
        "risk_level": "unknown",
        "impact_status": "skipped",
        "blocked_codes": [],
        "include_explain": True,
    }


def test_what_is_blocked_says_by_what_and_how_to_mend_it(world: World) -> None:
    seen = ask(world, sql="DELETE FROM t")
    assert (seen["status"], seen["review"]["blocked"], seen["retryable"]) == ("blocked", True, True)
    (finding,) = seen["review"]["findings"]
    assert (finding["code"], finding["action"], finding["statement_index"]) == ("no_where_delete", "block", 0)
    assert finding["hint"] in seen["fix_hints"]
    assert seen["explanation"][-1] == "It is refused: the review blocks it."
    assert not seen["policy"]["would_auto_approve"]
    with pytest.raises(Invalid) as caught:
        world.create(detail="DELETE FROM t")
    assert caught.value.code == "sql.blocked_by_review"
    (event,) = world.events(event_type="request.blocked_by_review")
    assert (event["outcome"], event["detail_fingerprint"]) == ("denied", "DELETE FROM t")
    assert event["metadata"]["blocked_rules"][0].startswith("no_where_delete: ")


@pytest.mark.parametrize(
    ("environment", "advice"),
    [("auto", "look at the warnings before you submit it"), ("steps", "submit it with a reason")],
)
def test_a_warning_says_what_to_do_about_it(world: World, environment: str, advice: str) -> None:
    seen = ask(world, environment=environment, sql="SELECT * FROM a, b")
    assert (seen["status"], seen["policy"]["would_auto_approve"]) == ("warning", environment == "auto")
    assert [action[: len(advice)] for action in seen["next_actions"]] == [advice]


@pytest.mark.parametrize(
    ("sql", "allowed"),
    [
        ("SELECT 1", True),
        ("DROP TABLE t", True),
        ("UPDATE t SET a = 1 WHERE b = 2", True),
        ("DELETE FROM t", False),
        ("DROP TABLE t; UPDATE t SET a = 1", False),
    ],
)
def test_whether_an_emergency_would_get_past(world: World, sql: str, *, allowed: bool) -> None:
    asked = NewPreflight(database="app", environment="auto", sql=sql)
    verdict = preflight.judge(world.rt, chief(world), asked)
    assert verdict.view["policy"]["break_glass_allowed"] is allowed
    assert not ask(world, sql=sql)["policy"]["break_glass_allowed"]


@pytest.mark.parametrize(
    ("sql", "code"), [("SELECT 'open", "parse_failure"), ("COMMIT", "rejected"), ("GRANT ALL ON t TO x", "rejected")]
)
def test_what_cannot_be_submitted_at_all_is_an_answer_too(world: World, sql: str, code: str) -> None:
    seen = ask(world, sql=sql)
    assert (seen["status"], seen["risk"], seen["retryable"]) == ("blocked", "unknown", False)
    assert [finding["code"] for finding in seen["review"]["findings"]] == [code]
    assert not any(seen["policy"][key] for key in ("sql_valid", "caller_can_submit", "would_auto_approve"))
    assert world.events(event_type="preflight.attempted")[0]["metadata"]["blocked_codes"] == [code]


def test_who_may_not_submit_is_told(world: World) -> None:
    seen = ask(world, "both", environment="prod", sql="SELECT 1")
    assert seen["policy"]["caller_can_submit"]
    with pytest.raises(Refused):
        ask(world, "bob")
    assert world.events(event_type="request.refused")[0]["metadata"]["action"] == "preflight"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"database": "nowhere"}, "database.not_registered"),
        ({"database": "Bad"}, "validation.failed"),
        ({"sql": ""}, "sql.empty"),
        ({"operation": "execute_dml"}, "operation.disagrees"),
        ({"operation": "nonsense"}, "validation.failed"),
    ],
)
def test_a_wrong_question(world: World, body: dict[str, str], code: str) -> None:
    with pytest.raises(DbwardError) as caught:
        ask(world, **body)
    assert caught.value.code == code


def test_a_question_that_is_too_long(world: World) -> None:
    with pytest.raises(TooLarge):
        ask(world, sql="SELECT '" + "x" * 100_000 + "'")


def test_an_emergency_with_ddl_goes_past_rules_that_yield_and_leaves_its_event(world: World) -> None:
    drop = {"detail": "DROP TABLE t", "emergency": True, "reason": "fire"}
    with pytest.raises(Invalid) as caught:
        world.create("olga", **drop)
    assert (caught.value.code, "allow_ddl" in (caught.value.hint or "")) == ("sql.blocked_by_review", True)
    made = world.create("olga", **drop, allow_ddl=True)
    assert made["status"] == "dispatched"
    why = world.show(made, "olga")["decision_trace"]["explanation"][-1]
    assert why == "It runs without approval and past the rules that block: an emergency that allows DDL."
    (event,) = world.events(event_type="ddl.break_glass_bypass")
    assert event["metadata"] == {
        "request_id": made["id"],
        "sql_redacted": "DROP TABLE t",
        "statement_count": 1,
        "reason": "fire",
        "classifier_bypassed": False,
        "reviewer_bypassed": True,
    }
    counted = monitoring.exposition(world.rt).decode().splitlines()
    assert "dbward_break_glass_total 1.0" in counted
    assert "dbward_break_glass_ddl_attempted_total 1.0" in counted
    assert "dbward_break_glass_ddl_allowed_total 1.0" in counted


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t",
        "DROP TABLE t; DELETE FROM u WHERE a = 1",
        "DROP TABLE t; DELETE FROM u",
        "COMMIT",
        "SELECT '",
    ],
)
def test_what_no_emergency_gets_past(world: World, sql: str) -> None:
    with pytest.raises(Invalid) as caught:
        world.create("olga", detail=sql, emergency=True, allow_ddl=True, reason="fire")
    assert caught.value.code.startswith("sql.")
    assert world.events(event_type="ddl.break_glass_bypass") == []
    assert "dbward_break_glass_ddl_denied_total 1.0" in monitoring.exposition(world.rt).decode().splitlines()


def test_the_trace_answers_why(world: World) -> None:
    made = world.create(environment="risk", detail="SELECT refund(1)")
    trace = world.show(made)["decision_trace"]
    assert trace["risk"]["level"] == "unknown"
    flow = trace["workflow"]["matched"]["id"]
    assert trace["explanation"] == [
        "It counts as a write: nobody vouches for the function refund to only read.",
        "The risk is unknown: no agent has reported the tables of this database yet, or not all of them.",
        (
            f"It needs approval by role:approver: workflow {flow} approves by itself up to the risk low, "
            "and the risk of this one is not known."
        ),
    ]


def test_preflights_may_be_limited(world: World) -> None:
    features = replace(world.rt.settings.features, preflight=Preflight(rate_limit_per_minute=2))
    limited = replace(world.rt, settings=replace(world.rt.settings, features=features))
    asked = NewPreflight(database="app", environment="auto", sql="SELECT 1")
    alice, rita = world.who("alice"), world.who("rita")
    for _ in range(2):
        preflight.judge(limited, alice, asked)
    with pytest.raises(RateLimited) as caught:
        preflight.judge(limited, alice, asked)
    assert caught.value.code == "preflight.rate_limited"
    assert 0 < (caught.value.retry_after or 0) <= 60
    preflight.judge(limited, rita, asked)
    world.clock.advance(minutes=1)
    preflight.judge(limited, alice, asked)
