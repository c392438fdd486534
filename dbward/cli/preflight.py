"""`dbward preflight`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Exit, Outcome
from dbward.cli.input import sql_file, sql_of
from dbward.cli.tables import pairs

FACTORS_SHOWN = 5


@click.command("preflight", epilog=EPILOG)
@click.argument("sql", required=False)
@sql_file
@click.option("--no-explain", is_flag=True, help="Do not ask the agent for the plan.")
@click.option(
    "--explain-timeout",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    metavar="MS",
    help="How long the plan may take.",
)
@global_options(hidden=True)
@pass_app
def preflight(app: App, /, sql: str | None, file: str | None, explain_timeout: int, *, no_explain: bool) -> Outcome:
    """Show what submitting the SQL would lead to, without submitting it. SQL may be `-` for standard input.

    Exit status: 0 it could be submitted; 1 it would be refused.
    """
    from dbward.client.http import ANSWER_SECS

    text = sql_of(app, sql, file)
    answer = app.client.post(
        "/api/preflight",
        {
            "database": app.settings.database(),
            "environment": app.settings.environment(),
            "sql": text,
            "include_explain": not no_explain,
            "explain_timeout_ms": explain_timeout,
        },
        answer_secs=ANSWER_SECS + explain_timeout / 1000,
    )
    app.out.data(pairs(list(entries(answer))))
    for hint in (*answer["fix_hints"], *answer["next_actions"]):
        app.out.hint(hint)
    if answer["status"] == "blocked":
        return Outcome(answer, Exit.FAILED, "blocked", "this would be refused", said=True)
    return Outcome(answer)


def entries(answer: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What there is to say about an answer, in the order of importance."""
    kind, policy, impact = answer["classification"], answer["policy"], answer["impact"]
    yield "Status", answer["status"]
    yield "Risk", _risk(answer["risk_assessment"])
    yield "Statement", f"{kind['statement_type']} ({kind['operation']})"
    yield "Findings", "\n".join(map(_finding, answer["review"]["findings"])) or "none"
    yield "Approval", _approval(policy)
    yield "Why", "\n".join(answer["explanation"]) or None
    if impact["status"] != "skipped":
        yield "EXPLAIN", impact.get("plan_text") or impact["status"]


def _risk(assessed: Mapping[str, Any]) -> str:
    factors = [_factor(factor) for factor in assessed["factors"]]
    if len(factors) < 2:
        return str(assessed["level"]) + (f" ({factors[0]})" if factors else "")
    more = [f"+{len(factors) - FACTORS_SHOWN} more"] if len(factors) > FACTORS_SHOWN else []
    return "\n".join([str(assessed["level"]), *(f"- {text}" for text in (*factors[:FACTORS_SHOWN], *more))])


def _factor(factor: Mapping[str, Any]) -> str:
    said = [", ".join(factor["targets"])] if factor.get("targets") else []
    said += [f"{factor['rows']:,} rows"] if factor.get("rows") else []
    said += [str(factor["count"])] if factor.get("count") else []
    return str(factor["name"]).replace("_", " ") + (f": {', '.join(said)}" if said else "")


def _finding(finding: Mapping[str, Any]) -> str:
    return f"[{finding['action'].upper()}] {finding['code']}: {finding['message']}"


def _approval(policy: Mapping[str, Any]) -> str:
    if policy["would_auto_approve"]:
        return "approved by itself"
    if not policy["requires_approval"]:
        return "not possible"
    return f"required ({_selectors(policy['approvers'])})"


def _selectors(approvers: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{entry['selector']}" + (f" ×{entry['min']}" if entry["min"] > 1 else "") for entry in approvers)  # noqa: RUF001
