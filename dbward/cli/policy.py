"""`dbward policy` and `dbward workflow`: the policies in force, and which of them cover a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.tables import counted, pairs, table


@click.group("policy", short_help="Show policies, and which of them cover a database.", epilog=EPILOG)
@global_options(hidden=True)
def policy() -> None:
    """Show policies, and which of them cover a database. They are set up in the server's configuration."""


@click.group("workflow", short_help="Show who has to approve what.", epilog=EPILOG)
@global_options(hidden=True)
def workflow() -> None:
    """Show who has to approve what. Workflows are set up in the server's configuration."""


@policy.command("resolve", epilog=EPILOG)
@click.argument("of_database", metavar="[DATABASE]", required=False)
@click.argument("of_environment", metavar="[ENVIRONMENT]", required=False)
@click.option("--operation", metavar="NAME", help="Only this one, in full: execute_select, execute_dml, migrate_up …")
@global_options(hidden=True)
@pass_app
def resolve(app: App, /, of_database: str | None, of_environment: str | None, operation: str | None) -> Outcome:
    """Show which policies cover DATABASE in ENVIRONMENT, and what they decide.

    Without them it is the database and environment that `execute` would work on.
    """
    database = of_database or app.settings.database()
    environment = of_environment or app.settings.environment()
    found = app.client.get(
        "/api/policy-resolution", {"database": database, "environment": environment, "operation": operation}
    )
    if not found["registered"]:
        app.out.say(f"{database}/{environment} is not registered: everything is refused.")
    elif operation is None:
        rows = [(one["operation"], one["workflow_id"] or "none", _decision(one)) for one in found["resolutions"]]
        app.out.data([*table(("OPERATION", "WORKFLOW", "DECISION"), rows), *pairs(list(_limits(found)))])
    else:
        app.out.data(pairs(list(_entries(found))))
    return Outcome(found)


@policy.command("list", epilog=EPILOG)
@click.option(
    "--kind",
    type=click.Choice(["workflow", "execution", "result", "notification", "sql-review"]),
    help="Only those of this kind.",
)
@global_options(hidden=True)
@pass_app
def list_(app: App, /, kind: str | None) -> Outcome:
    """List policies of every kind, or of one."""
    rows, data = [], {}
    for name in [kind] if kind is not None else KINDS:
        found = _all(app, KINDS[name])
        data[KINDS[name].key] = found
        rows += [(name, one["id"], one["database"], one["environment"], KINDS[name].says(one)) for one in found]
    app.out.listing(table(("KIND", "ID", "DATABASE", "ENVIRONMENT", "SAYS"), rows, _LIMITS), "No policies.")
    return Outcome(data)


@policy.command("show", epilog=EPILOG)
@click.argument("kind", type=click.Choice(["workflow", "execution", "result", "notification", "sql-review"]))
@click.argument("id")
@global_options(hidden=True)
@pass_app
def show(app: App, /, kind: str, id: str) -> Outcome:  # noqa: A002 - the argument's name on the command line
    """Show one policy."""
    return _shown(app, KINDS[kind], id)


@workflow.command("list", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def list_workflows(app: App, /) -> Outcome:
    """List workflows."""
    found = _all(app, KINDS["workflow"])
    rows = [
        (one["id"], one["database"], one["environment"], ", ".join(one["operations"]) or "all others", _approvers(one))
        for one in found
    ]
    app.out.listing(table(("ID", "DATABASE", "ENVIRONMENT", "OPERATIONS", "APPROVAL"), rows, _LIMITS), "No workflows.")
    return Outcome({"workflows": found})


@workflow.command("show", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def show_workflow(app: App, /, id: str) -> Outcome:  # noqa: A002 - same
    """Show one workflow: its steps, and what is approved by itself."""
    return _shown(app, KINDS["workflow"], id)


@dataclass(frozen=True, slots=True)
class Kind:
    """Where the API has one kind of policy, the key of its list, and how one of them reads in a few words."""

    path: str
    key: str
    says: Callable[[Mapping[str, Any]], str]


def _all(app: App, kind: Kind) -> list[dict[str, Any]]:
    with explained():
        found: list[dict[str, Any]] = app.client.get(kind.path)[kind.key]
    return found


def _shown(app: App, kind: Kind, policy_id: str) -> Outcome:
    from dbward.client.http import part

    with explained():
        found = app.client.get(f"{kind.path}/{part(policy_id)}")
    app.out.data(pairs([(key.replace("_", " ").capitalize(), _text(key, value)) for key, value in found.items()]))
    return Outcome(found)


def _text(key: str, value: Any) -> str | None:
    """One value of a policy; None for what it does not say."""
    if value is None:
        return None
    if key == "steps":
        return "\n".join(_step(step["mode"], step["approvers"]) for step in value) or "none"
    if key == "auto_approve":
        return _auto(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "\n".join(f"{name}: {said}" for name, said in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "all"
    return str(value)


def _auto(auto: Mapping[str, Any]) -> str:
    if auto["mode"] == "always":
        return "always"
    also = [text for text, given in (("reads", auto["allow_read_only"]), ("safe DDL", auto["allow_safe_ddl"])) if given]
    return f"up to the risk {auto['max_risk_level']}" + (f", and {' and '.join(also)}" if also else "")


def _approvers(flow: Mapping[str, Any]) -> str:
    steps = ", then ".join(_step(step["mode"], step["approvers"]) for step in flow["steps"])
    if flow["auto_approve"] is None:
        return steps or "not possible"
    auto = f"by itself {_auto(flow['auto_approve'])}"
    return f"{auto}; else {steps}" if steps else auto


def _execution(found: Mapping[str, Any]) -> str:
    rows = "any number of rows" if found["max_rows"] is None else f"at most {counted(found['max_rows'], 'row')}"
    return f"{found['statement_timeout_secs']} s, {rows}"


def _result(found: Mapping[str, Any]) -> str:
    kept = "not stored" if found["delivery_mode"] == "stream" else f"stored {counted(found['retention_days'], 'day')}"
    return f"{kept}; read also by {', '.join(found['access'])}" if found["access"] else kept


def _notification(found: Mapping[str, Any]) -> str:
    return f"{', '.join(found['events']) or 'everything'} to {', '.join(found['webhooks']) or 'nobody'}"


def _review(found: Mapping[str, Any]) -> str:
    changed = ", ".join(f"{rule} {action}" for rule, action in found["rules"].items() if action != "warn")
    return f"{changed}; everything else warns" if changed else "everything warns"


KINDS: Final[Mapping[str, Kind]] = {
    "workflow": Kind("/api/workflows", "workflows", _approvers),
    "execution": Kind("/api/execution-policies", "execution_policies", _execution),
    "result": Kind("/api/result-policies", "result_policies", _result),
    "notification": Kind("/api/notification-policies", "notification_policies", _notification),
    "sql-review": Kind("/api/sql-review-policies", "sql_review_policies", _review),
}
_LIMITS: Final = (0, 0, 0, 0, 70)


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
        yield "Steps", "\n".join(_step(step["mode"], step["required"]) for step in flow["steps"]) or "none"
        yield "Reason", "required" if flow["require_reason"] else "optional"
        yield "Plan", "shown to approvers" if flow["explain"] else "not asked for"
    yield from _limits(found)


def _step(mode: str, needed: list[dict[str, Any]]) -> str:
    named = [f"{entry['selector']} (at least {entry['min']})" for entry in needed]
    return (" and " if mode == "all" else " or ").join(named)


def _limits(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    limits, rules = found["execution_policy"], found["sql_review_policy"]
    yield "Time limit", f"{limits['statement_timeout_secs']} s"
    yield "Row limit", limits["max_rows"]
    yield "SQL review", f"{rules['id']}: {_review(rules)}"
