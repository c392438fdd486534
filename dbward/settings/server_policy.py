"""The part of `server.toml` that is policy: databases, workflows, execution and result policies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol, TypeVar

from dbward.canonical import sha256_hex
from dbward.domain.model import (
    ANY,
    Action,
    Approver,
    AutoApprove,
    Dialect,
    ExecutionPolicy,
    Operation,
    PolicySet,
    ResultPolicy,
    RiskLevel,
    Selector,
    SelectorKind,
    SqlReviewPolicy,
    Step,
    Target,
    Workflow,
)
from dbward.domain.names import parse_name, parse_operation, parse_selector
from dbward.domain.review_rules import DEFAULT_ACTIONS, SQUAWK
from dbward.errors import Invalid
from dbward.settings.load import Table

T = TypeVar("T")

_FUNCTION = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)?")
_DIALECTS = {"postgres": Dialect.POSTGRESQL, "mariadb": Dialect.MYSQL} | {str(d): d for d in Dialect}


class _Scoped(Protocol):
    @property
    def database(self) -> str: ...
    @property
    def environment(self) -> str: ...


def read_policy(root: Table, warnings: list[str]) -> tuple[PolicySet, dict[Target, Dialect]]:
    """Databases, workflows and policies. `server_access` adds roles and groups, and checks the names used here."""
    targets, dialects, vouched = _read_databases(root)
    policy = PolicySet(
        targets=targets,
        vouched=vouched,
        workflows=_read_workflows(root, warnings),
        execution_policies=_each_scope_once(root, "execution_policies", _read_execution_policy),
        result_policies=_each_scope_once(root, "result_policies", _read_result_policy),
        sql_review=_each_scope_once(root, "sql_review", _read_sql_review),
    )
    for name, entries in (
        ("workflows", policy.workflows),
        ("execution_policies", policy.execution_policies),
        ("result_policies", policy.result_policies),
        ("sql_review", policy.sql_review),
    ):
        for entry in entries:
            warn_unregistered(name, entry, targets, warnings)
    return policy, dialects


def read_scope(table: Table) -> tuple[str, str]:
    """`database` and `environment`, each a name or `*`, which is also the default."""
    return (
        table_name(table, "database", table.text("database", ANY)),
        table_name(table, "environment", table.text("environment", ANY)),
    )


def table_name(table: Table, key: str, text: str, *, wildcard: bool = True, what: str | None = None) -> str:
    """`text`, which was read from `key`, as a name; reported and returned as it is when it is none."""
    if text and not (wildcard and text == ANY):
        accept(table, key, lambda: parse_name(text, what or key))
    return text


def accept(table: Table, key: str, parse: Callable[[], T]) -> T | None:
    """What `parse` returns; None, and the mistake reported at `key`, when it raises `Invalid`."""
    try:
        return parse()
    except Invalid as e:
        table.wrong(key, e.message + (f" ({e.hint})" if e.hint else ""))
        return None


def _read_databases(
    root: Table,
) -> tuple[tuple[Target, ...], dict[Target, Dialect], dict[Target, frozenset[str]]]:
    """The targets, and for some of them the dialect and the functions that are vouched for."""
    targets: dict[Target, None] = {}
    dialects: dict[Target, Dialect] = {}
    vouched: dict[Target, frozenset[str]] = {}
    seen: set[str] = set()
    for table in root.tables("databases"):
        name = table_name(table, "name", table.required("name"), wildcard=False, what="database")
        if name in seen:
            table.wrong("name", f"database {name!a} is listed twice; give it all its environments in one entry")
        seen.add(name)
        dialect = _DIALECTS.get(table.choice("dialect", "", _DIALECTS))
        functions = _read_vouched(table)
        for environment in table.texts("environments"):
            target = Target(name, table_name(table, "environments", environment, wildcard=False, what="environment"))
            if target in targets:
                table.wrong("environments", f"{environment!a} is listed twice")
            targets[target] = None
            if dialect is not None:
                dialects[target] = dialect
            if functions:
                vouched[target] = functions
    return tuple(targets), dialects, vouched


def _read_vouched(table: Table) -> frozenset[str]:
    """Names of functions as the database folds them, with their schema or without."""
    names = table.texts("vouched_functions")
    for name in names:
        if not _FUNCTION.fullmatch(name):
            table.wrong(
                "vouched_functions", f"{name!a} is no function's name: write it in lower case, as name or schema.name"
            )
    return frozenset(names)


def _read_workflows(root: Table, warnings: list[str]) -> tuple[Workflow, ...]:
    flows: list[Workflow] = []
    taken: dict[tuple[str, str], dict[Operation | None, str]] = {}
    for table in root.tables("workflows"):
        flow = _read_workflow(table, warnings)
        others = taken.setdefault((flow.database, flow.environment), {})
        for operation in flow.operations or (None,):
            other = others.get(operation) or others.get(None)
            if other is None and operation is None and others:
                other = next(iter(others.values()))
            if other is not None and other != table.path:
                what = f"operation {operation}" if operation else "all operations"
                table.wrong("", f"covers {what} of {flow.database}/{flow.environment}, which {other} already does")
            others[operation] = table.path
        flows.append(flow)
    return tuple(flows)


def _read_workflow(table: Table, warnings: list[str]) -> Workflow:
    database, environment = read_scope(table)
    operations = _read_operations(table)
    flow = Workflow(
        id=f"wf:{database}:{environment}:{sha256_hex(','.join(sorted(operations)))[:12]}",
        database=database,
        environment=environment,
        operations=operations,
        auto_approve=_read_auto_approve(table.table("auto_approve"), warnings),
        steps=tuple(_read_step(step, warnings) for step in table.tables("steps")),
        require_reason=table.flag("require_reason", default=False),
        allow_self_approve=table.flag("allow_self_approve", default=False),
        allow_same_approver_across_steps=table.flag("allow_same_approver_across_steps", default=False),
        explain=table.flag("explain", default=True),
        pending_ttl=table.maybe_secs("pending_ttl_secs", least=1),
        approval_ttl=table.maybe_secs("approval_ttl_secs", least=1),
        statement_timeout=table.maybe_secs("statement_timeout_secs", least=1),
    )
    _check_steps(table, flow, warnings)
    return flow


def _read_operations(table: Table) -> tuple[Operation, ...]:
    found: dict[Operation, None] = {}
    for text in table.texts("operations"):
        if not text:
            table.wrong("operations", "holds an empty text")
            continue
        operation = accept(table, "operations", lambda text=text: parse_operation(text))  # type: ignore[misc]  # mypy infers no default
        if operation is None:
            continue
        if operation in found:
            table.wrong("operations", f"{text!a} means {operation}, which is already listed")
        found[operation] = None
    return tuple(found)


def _read_auto_approve(table: Table, warnings: list[str]) -> AutoApprove | None:
    mode = table.choice("mode", "", ("always", "risk_based"))
    risk = table.choice("risk", "", ("low", "medium", "high"))
    auto = AutoApprove(
        mode="risk_based" if mode == "risk_based" else "always",
        risk=RiskLevel(risk) if risk else None,
        allow_read_only=table.flag("allow_read_only", default=True),
        allow_safe_ddl=table.flag("allow_safe_ddl", default=True),
        max_estimated_rows=table.integer("max_estimated_rows", 1000),
    )
    if not table.present:
        return None
    if not table.has("mode"):
        table.wrong("mode", "is required: `always` or `risk_based`")
    elif mode == "risk_based" and not table.has("risk"):
        table.wrong("risk", "is required with mode `risk_based`: `low`, `medium` or `high`")
    elif mode == "always" and risk:
        warnings.append(f"{table.at('risk')}: has no effect with mode `always`")
        auto = replace(auto, risk=None)
    return auto


def _read_step(table: Table, warnings: list[str]) -> Step:
    listed = table.tables("approvers")
    approvers = [a for entry in listed if (a := _read_approver(entry)) is not None]
    if not table.has("approvers"):
        table.wrong("approvers", "is required")
    elif not listed:
        table.wrong("approvers", "names nobody")
    selectors = [approver.selector for approver in approvers]
    twice = dict.fromkeys(selector for selector in selectors if selectors.count(selector) > 1)
    warnings.extend(f"{table.at('approvers')}: {selector} stands there twice" for selector in twice)
    mode: Literal["all", "any"] = table.choice("mode", "all", ("all", "any"))
    return Step(approvers=tuple(approvers), mode=mode)


def _read_approver(table: Table) -> Approver | None:
    given = [(kind, table.maybe(kind)) for kind in (SelectorKind.ROLE, SelectorKind.GROUP, SelectorKind.USER)]
    least = table.integer("min", 1, least=1, most=1000)
    named = [(kind, value) for kind, value in given if value is not None]
    if len(named) != 1:
        table.wrong("", "needs exactly one of `role`, `group` and `user`")
        return None
    kind, value = named[0]
    selector = accept(table, kind, lambda: parse_selector(f"{kind}:{value}"))
    if selector is None:
        return None
    if kind is SelectorKind.USER and least > 1:
        table.wrong("min", "one user cannot approve more than once")
        least = 1
    return Approver(selector, least)


def _check_steps(table: Table, flow: Workflow, warnings: list[str]) -> None:
    """The rules that auto_approve and steps have with each other, and the steps among themselves."""
    auto = flow.auto_approve
    if auto is None and not table.has("auto_approve") and not flow.steps:
        table.wrong("", "needs [workflows.auto_approve] or [[workflows.steps]]")
    if auto is not None and auto.mode == "always" and flow.steps:
        table.wrong("steps", "have no use with auto_approve mode `always`; remove one of the two")
    if auto is not None and auto.mode == "risk_based" and not flow.steps:
        table.wrong("steps", "are required with auto_approve mode `risk_based`: who approves what is riskier?")
    if flow.allow_same_approver_across_steps:
        return
    seen: dict[Selector, int] = {}
    for number, step in enumerate(flow.steps):
        for selector in dict.fromkeys(approver.selector for approver in step.approvers):
            before = seen.setdefault(selector, number)
            if before == number:
                continue
            if selector.kind is SelectorKind.USER:
                table.wrong(
                    f"steps[{number}]",
                    f"{selector} is already in steps[{before}] and may approve only once; "
                    "set allow_same_approver_across_steps = true or name somebody else",
                )
            else:
                warnings.append(
                    f"{table.at(f'steps[{number}]')}: {selector} is already in steps[{before}]; "
                    "each of them can approve in one step only"
                )


P = TypeVar("P", ExecutionPolicy, ResultPolicy, SqlReviewPolicy)


def _each_scope_once(root: Table, key: str, read: Callable[[Table], P]) -> tuple[P, ...]:
    found: dict[tuple[str, str], P] = {}
    for table in root.tables(key):
        policy = read(table)
        scope = (policy.database, policy.environment)
        if scope in found:
            table.wrong("", f"is a second entry for {'/'.join(scope)}")
        found[scope] = policy
    return tuple(found.values())


def _read_execution_policy(table: Table) -> ExecutionPolicy:
    database, environment = read_scope(table)
    usual = ExecutionPolicy()
    policy = ExecutionPolicy(
        id=f"ep:{database}:{environment}",
        database=database,
        environment=environment,
        max_executions=table.integer("max_executions", usual.max_executions, least=1),
        execution_window=table.secs("execution_window_secs", usual.execution_window, least=1),
        retry_on_failure=table.flag("retry_on_failure", default=usual.retry_on_failure),
        statement_timeout=table.secs("statement_timeout_secs", usual.statement_timeout, least=1),
        max_statement_timeout=table.secs("max_statement_timeout_secs", usual.max_statement_timeout, least=1),
        max_rows=table.maybe_integer("max_rows", least=1),
        migration_lease_duration=table.maybe_secs("migration_lease_duration_secs", least=1),
        migration_statement_timeout=table.maybe_secs("migration_statement_timeout_secs"),
    )
    if policy.statement_timeout > policy.max_statement_timeout:
        longest = int(policy.max_statement_timeout.total_seconds())
        table.wrong("statement_timeout_secs", f"is over max_statement_timeout_secs, which is {longest}")
    return policy


def _read_result_policy(table: Table) -> ResultPolicy:
    database, environment = read_scope(table)
    usual = ResultPolicy()
    access = [
        accept(table, "access", lambda text=text: parse_selector(text))  # type: ignore[misc]  # mypy infers no default
        for text in table.texts("access")
    ]
    return ResultPolicy(
        id=f"rp:{database}:{environment}",
        database=database,
        environment=environment,
        retention=table.days("retention_days", usual.retention),
        delivery_mode=table.choice("delivery_mode", "both", ("both", "stream")),
        access=tuple(selector for selector in access if selector is not None),
    )


def _read_sql_review(table: Table) -> SqlReviewPolicy:
    database, environment = read_scope(table)
    if "any" in (database, environment):
        table.wrong("database" if database == "any" else "environment", "`any` is reserved; write `*`")
    rules = {rule: table.choice(rule, usual, _actions(rule)) for rule, usual in DEFAULT_ACTIONS.items()}
    scope = ":".join("any" if part == ANY else part for part in (database, environment))
    return SqlReviewPolicy(
        id=f"srp:{scope}",
        database=database,
        environment=environment,
        rules={rule: Action(action) for rule, action in rules.items() if table.has(rule)},
    )


def _actions(rule: str) -> tuple[str, ...]:
    """What may be chosen: another tool's advice never blocks."""
    return ("warn", "off") if rule == SQUAWK else ("block", "warn", "off")


def warn_unregistered(name: str, entry: _Scoped, targets: tuple[Target, ...], warnings: list[str]) -> None:
    """A policy that covers nothing is most often a misspelled one."""
    if not any(
        entry.database in (ANY, target.database) and entry.environment in (ANY, target.environment)
        for target in targets
    ):
        warnings.append(f"{name}: the entry for {entry.database}/{entry.environment} matches no entry of [[databases]]")
