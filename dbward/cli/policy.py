"""`dbward policy`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.tables import pairs, table


@click.group("policy", short_help="Ask which policies cover a database.", epilog=EPILOG)
@global_options(hidden=True)
def policy() -> None:
    """Ask which policies cover a database."""


@policy.command("resolve", epilog=EPILOG)
@click.argument("of_database", metavar="DATABASE")
@click.argument("of_environment", metavar="ENVIRONMENT")
@click.option("--operation", metavar="NAME", help="Only this one, in full: execute_select, execute_dml, migrate_up …")
@global_options(hidden=True)
@pass_app
def resolve(app: App, /, of_database: str, of_environment: str, operation: str | None) -> Outcome:
    """Show which policies cover DATABASE in ENVIRONMENT, and what they decide."""
    found = app.client.get(
        "/api/policy-resolution", {"database": of_database, "environment": of_environment, "operation": operation}
    )
    if not found["registered"]:
        app.out.say(f"{of_database}/{of_environment} is not registered: everything is refused.")
    elif operation is None:
        rows = [(one["operation"], one["workflow_id"] or "none", _decision(one)) for one in found["resolutions"]]
        app.out.data([*table(("OPERATION", "WORKFLOW", "DECISION"), rows), *pairs(list(_limits(found)))])
    else:
        app.out.data(pairs(list(_entries(found))))
    return Outcome(found)


def _decision(one: Mapping[str, Any]) -> str:
    auto = one["auto_approve"]
    match one["decision_preview"]:
        case "deny":
            return "refused: no workflow covers it"
        case "auto_approved":
            return "approved by itself"
        case "may_auto_approve":
            return f"approved by itself up to the risk {auto['max_risk_level']}"
        case _:
            return "needs approval"


def _entries(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    flow = found["workflow"]
    yield "Operation", found["operation"]
    yield "Workflow", f"{flow['id']}, for {flow['matched_by']}" if flow else "none"
    yield "Decision", _decision(found)
    if flow:
        yield "Steps", "\n".join(map(_step, flow["steps"])) or "none"
        yield "Reason", "required" if flow["require_reason"] else "optional"
        yield "Plan", "shown to approvers" if flow["explain"] else "not asked for"
    yield from _limits(found)


def _step(step: Mapping[str, Any]) -> str:
    named = [f"{entry['selector']} (at least {entry['min']})" for entry in step["required"]]
    return (" and " if step["mode"] == "all" else " or ").join(named)


def _limits(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    limits, rules = found["execution_policy"], found["sql_review_policy"]
    yield "Time limit", f"{limits['statement_timeout_secs']} s"
    yield "Row limit", limits["max_rows"]
    changed = ", ".join(f"{rule} {action}" for rule, action in rules["rules"].items() if action != "warn")
    yield "SQL review", f"{rules['id']}: {changed}; everything else warns"
