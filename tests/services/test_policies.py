"""The configured policies, and which of them cover a target."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import pytest

from dbward.domain.review_rules import DEFAULT_ACTIONS
from dbward.errors import Refused
from dbward.runtime import open_runtime
from dbward.services import bootstrap, policies
from dbward.services.policies import Kind
from dbward.services.views import View
from tests.services.conftest import Clock, Place, World, refused

MORE = """
[[workflows]]
database = "app"
environment = "later"
operations = ["migrate_up", "execute_dml"]
pending_ttl_secs = 60
[workflows.auto_approve]
mode = "risk_based"
risk = "medium"
[[workflows.steps]]
mode = "any"
approvers = [{ role = "approver", min = 2 }, { user = "carol" }]

[[execution_policies]]
database = "app"
environment = "later"
migration_statement_timeout_secs = 0
migration_lease_duration_secs = 90

[[sql_review]]
database = "app"
drop_table = "warn"

[[sql_review]]
environment = "later"

[[webhooks]]
id = "ops"
url = "https://hooks.example.com/ops"

[[notification_policies]]
environment = "prod"
webhooks = ["ops"]
events = ["request.*"]
"""
OPERATIONS = sha256(b"execute_dml,migrate_up").hexdigest()[:12]
ALL = sha256(b"").hexdigest()[:12]
NO_TIMES = {"created_at": None, "updated_at": None}


@pytest.fixture
def configured(place: Place, clock: Clock) -> Iterator[World]:
    settings = place.load(more=MORE)
    bootstrap.prepare(settings, now=clock)
    world = World(open_runtime(settings, now=clock), clock)
    yield world
    world.rt.close()


def listed(world: World, kind: Kind) -> dict[str, View]:
    (views,) = policies.list_policies(world.rt, world.who("none"), kind).values()
    return {view["id"]: view for view in views}


def test_workflows(configured: World) -> None:
    found = listed(configured, Kind.WORKFLOWS)
    assert len(found) == len(configured.rt.settings.policy.workflows)
    assert found[f"wf:app:later:{OPERATIONS}"] == {
        "id": f"wf:app:later:{OPERATIONS}",
        "database": "app",
        "environment": "later",
        "operations": ["migrate_up", "execute_dml"],
        "auto_approve": {
            "mode": "risk_based",
            "max_risk_level": "medium",
            "allow_read_only": True,
            "allow_safe_ddl": True,
            "max_estimated_rows": 1000,
        },
        "steps": [
            {
                "mode": "any",
                "approvers": [{"selector": "role:approver", "min": 2}, {"selector": "user:carol", "min": 1}],
            }
        ],
        "require_reason": False,
        "allow_self_approve": False,
        "allow_same_approver_across_steps": False,
        "explain": True,
        "pending_ttl_secs": 60,
        "approval_ttl_secs": None,
        "statement_timeout_secs": None,
        **NO_TIMES,
    }
    assert found[f"wf:*:auto:{ALL}"]["auto_approve"]["max_risk_level"] is None
    assert found[f"wf:*:prod:{ALL}"]["auto_approve"] is None


def test_execution_policies(configured: World) -> None:
    found = listed(configured, Kind.EXECUTION)
    assert list(found) == ["ep:*:many", "ep:app:later"]
    assert found["ep:*:many"] == {
        "id": "ep:*:many",
        "database": "*",
        "environment": "many",
        "max_executions": 3,
        "execution_window_secs": 3600,
        "retry_on_failure": True,
        "statement_timeout_secs": 30,
        "max_statement_timeout_secs": 600,
        "max_rows": 77,
        "migration_lease_duration_secs": None,
        "migration_statement_timeout_secs": None,
        **NO_TIMES,
    }
    later = found["ep:app:later"]
    assert (later["migration_statement_timeout_secs"], later["migration_lease_duration_secs"]) == (0, 90)
    assert (later["max_rows"], type(later["statement_timeout_secs"])) == (None, int)


def test_result_policies(configured: World) -> None:
    found = listed(configured, Kind.RESULT)
    assert list(found) == ["rp:*:stream", "rp:*:prod"]
    assert found["rp:*:prod"] == {
        "id": "rp:*:prod",
        "database": "*",
        "environment": "prod",
        "retention_days": 5,
        "delivery_mode": "both",
        "access": ["group:dba"],
        **NO_TIMES,
    }


def test_notification_policies(configured: World) -> None:
    found = listed(configured, Kind.NOTIFICATION)
    assert list(found) == ["np:*:prod"]
    assert found["np:*:prod"] == {
        "id": "np:*:prod",
        "database": "*",
        "environment": "prod",
        "webhooks": ("ops",),
        "events": ("request.*",),
    }


def test_sql_review_policies(configured: World) -> None:
    found = listed(configured, Kind.SQL_REVIEW)
    assert {name: view["source"] for name, view in found.items()} == {
        "srp:app:any": "config",
        "srp:any:later": "config",
        "builtin-default": "builtin",
    }
    assert found["srp:app:any"]["rules"] == {**DEFAULT_ACTIONS, "drop_table": "warn"}
    assert found["builtin-default"]["rules"] == DEFAULT_ACTIONS
    assert (found["srp:app:any"]["database"], found["srp:app:any"]["environment"]) == ("app", "*")


@pytest.mark.parametrize("kind", Kind)
def test_each_is_found_by_its_id_and_nothing_else_is(configured: World, kind: Kind) -> None:
    who = configured.who("none")
    for policy_id, view in listed(configured, kind).items():
        assert policies.show(configured.rt, who, kind, policy_id) == view
    for unknown in ("", "wf", "ep:*:nowhere", "ep::", "*"):
        assert refused(lambda unknown=unknown: policies.show(configured.rt, who, kind, unknown)) == "request.not_found"


@pytest.mark.parametrize("kind", Kind)
def test_reading_needs_a_permission(configured: World, kind: Kind) -> None:
    sam = configured.who("sam")
    with pytest.raises(Refused):
        policies.list_policies(configured.rt, sam, kind)
    for policy_id in (*listed(configured, kind), "unknown"):
        with pytest.raises(Refused):
            policies.show(configured.rt, sam, kind, policy_id)


def test_policies_of_a_target(world: World) -> None:
    who = world.who("alice")
    seen = policies.resolve(world.rt, who, "app", "risk", None)
    assert seen["registered"]
    assert {one["operation"]: one["decision_preview"] for one in seen["resolutions"]} == dict.fromkeys(
        ("execute_select", "execute_dml", "migrate_up", "migrate_down", "migrate_status", "migrate_repair"),
        "may_auto_approve",
    )
    assert (seen["sql_review_policy"]["id"], seen["sql_review_policy"]["source"]) == ("builtin-default", "builtin")
    assert seen["execution_policy"] == {
        "statement_timeout_secs": 30,
        "migration_statement_timeout_secs": None,
        "max_rows": None,
        "max_executions": 1,
        "matched_by": "(*, *)",
        "explicit": False,
    }
    one = policies.resolve(world.rt, who, "app", "steps", "execute_dml")
    assert (one["decision_preview"], one["reason_code"]) == ("needs_approval", "no_auto_approve")
    assert one["workflow"]["matched_by"] == "(*, steps)"
    assert policies.resolve(world.rt, who, "app", "bare", "execute_dml")["decision_preview"] == "deny"
    assert policies.resolve(world.rt, who, "app", "nowhere", None) == {
        "database": "app",
        "environment": "nowhere",
        "registered": False,
        "decision_preview": "deny",
        "reason_code": "db_not_registered",
    }
    many = policies.resolve(world.rt, who, "app", "many", None)["execution_policy"]
    assert (many["max_rows"], many["explicit"], many["matched_by"]) == (77, True, "(*, many)")


def test_the_steps_of_a_resolution_count_all_approvers(world: World) -> None:
    steps = policies.resolve(world.rt, world.who("alice"), "app", "steps", "execute_dml")["workflow"]["steps"]
    assert steps == [
        {
            "mode": "all",
            "approvers": ["role:approver", "user:sam"],
            "min": 3,
            "required": [{"selector": "role:approver", "min": 2}, {"selector": "user:sam", "min": 1}],
        },
        {
            "mode": "any",
            "approvers": ["group:dba", "user:carol"],
            "min": 1,
            "required": [{"selector": "group:dba", "min": 1}, {"selector": "user:carol", "min": 1}],
        },
    ]


def test_a_review_policy_without_rules_of_its_own_is_still_configured(configured: World) -> None:
    seen = policies.resolve(configured.rt, configured.who("alice"), "app", "auto", None)["sql_review_policy"]
    assert (seen["id"], seen["source"], seen["rules"]["drop_table"]) == ("srp:app:any", "config", "warn")


def test_resolving_needs_a_permission_there(world: World) -> None:
    with pytest.raises(Refused):
        policies.resolve(world.rt, world.who("none"), "app", "auto", None)
    dev = world.who("dev")
    assert policies.resolve(world.rt, dev, "app", "auto", None)["registered"]
    for environment in ("prod", "nowhere"):  # what is registered outside of one's scope is not told
        with pytest.raises(Refused, match=rf"request\.view on app/{environment}"):
            policies.resolve(world.rt, dev, "app", environment, None)
