"""How requests look on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dbward.cli import migrateview
from dbward.cli.tables import clean, cut, table
from dbward.cli.times import shown

Entry = tuple[str, object]


def listed(requests: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a request. The id is shortened to what commands take; times are whole."""
    reasons = any(item.get("reason") for item in requests)
    header = ["ID", "STATUS", "CREATED", "USER", "TARGET", "OP", "DETAIL"] + ["REASON"] * reasons
    rows = [
        [
            item["id"][:8],
            item["status"],
            shown(item["created_at"]),
            item["requester"],
            f"{item['database']}/{item['environment']}",
            item["operation"].removeprefix("execute_"),
            " ".join(item["detail"].split()),
        ]
        + [item.get("reason")] * reasons
        for item in requests
    ]
    return table(header, rows, limits=[0, 0, 0, 20, 30, 0, 40] + [30] * reasons)


def statement(request: Mapping[str, Any]) -> str:
    """The start of its SQL, or the names of its migrations, for a question."""
    if migrateview.is_one(request):
        return migrateview.titles(request)
    return "\n".join(f"  {cut(clean(line), 100)}" for line in request["detail"].strip().splitlines()[:10])


def entries(request: Mapping[str, Any]) -> Iterator[Entry]:
    """What `request show` says, in its order; None is left out."""
    yield "Request", request["id"]
    yield "Status", _status(request)
    yield "Operation", request["operation"] + (" (emergency)" if request.get("emergency") else "")
    yield "Detail", migrateview.reviewed(request) if migrateview.is_one(request) else request["detail"]
    yield "Environment", request["environment"]
    yield "Database", request["database"]
    yield "Reason", request.get("reason")
    yield "Idempotency", request.get("idempotency_key")
    yield "Metadata", _metadata(request.get("metadata"))
    yield "Shared with", ", ".join(request.get("share_with") or []) or None
    yield "Created by", request["requester"]
    yield "Created at", shown(request["created_at"])
    yield "Updated at", shown(request["updated_at"])
    yield "Expires at", shown(request.get("expires_at"))
    yield "Resolved at", shown(request.get("resolved_at"))
    yield "Agent", request.get("claimed_by")
    yield "Error", request.get("error_message")
    yield "Rejected", request.get("reject_reason")
    yield from _cancelled(request)
    yield "Approval", _approval(request.get("approval_progress"))
    yield "Decision", _decision(request.get("decision_trace"))
    yield "Tables", _tables(request.get("context"))
    yield "Plan", _plan(request.get("context"))
    yield "Why", "\n".join((request.get("decision_trace") or {}).get("explanation") or []) or None


def _tables(context: Mapping[str, Any] | None) -> str | None:
    """The tables it names with their sizes, and what deleting from them reaches."""
    lines = []
    for found in (context or {}).get("tables") or []:
        if isinstance(found, str):
            lines.append(found)
            continue
        rows = found["estimated_rows"]
        size = f"about {rows:,} rows" if rows >= 0 else "of unknown size"
        reached = [child["table_name"] for child in found.get("cascade_children") or []]
        more = f"; deleting reaches {', '.join(reached)}" if reached else ""
        lines.append(f"{found['schema_name']}.{found['name']}: {size}{more}")
    return "\n".join(lines) or None


def _plan(context: Mapping[str, Any] | None) -> str | None:
    if not context or not context.get("explain_enabled"):
        return None
    shown = [each["text"] for each in context.get("explain") or []]
    if shown:
        return "\n".join(shown)
    reason = context.get("explain_reason")
    return "being collected" if context["status"] == "collecting" else f"not available: {reason or context['status']}"


def _status(request: Mapping[str, Any]) -> str:
    hint = request.get("queue_hint")
    return str(request["status"]) + (f" ({hint.replace('_', ' ')})" if hint else "")


def _metadata(metadata: Any) -> str | None:
    if not metadata:
        return None
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        return ", ".join(f"{key}={value}" for key, value in metadata.items())
    return json.dumps(metadata, ensure_ascii=False)


def _cancelled(request: Mapping[str, Any]) -> Iterator[Entry]:
    if request.get("cancelled_by"):
        reason = request.get("cancel_reason")
        yield "Cancelled", f"by {request['cancelled_by']}" + (f": {reason}" if reason else "")


def _approval(progress: Mapping[str, Any] | None) -> str | None:
    """`1/2 complete`, then a line for each step and each decision."""
    if progress is None or not progress["steps"]:
        return None
    lines = [f"{progress['current_step']}/{progress['total_steps']} complete"]
    for step in progress["steps"]:
        mark = "[ok]" if step["satisfied"] else "[wait]"
        needed = (" + " if step["mode"] == "all" else " | ").join(map(_approver, step["approvers_required"]))
        lines.append(f"{mark} Step {step['index'] + 1} [{step['mode']}]: {needed}")
        for made in step["approvals"]:
            verb = "approved" if made["action"] == "approve" else "rejected"
            comment = f" - {made['comment']}" if made.get("comment") else ""
            lines.append(f"  {verb} by {made['user']} ({shown(made['at'])}){comment}")
    return "\n".join(lines)


def _approver(needed: Mapping[str, Any]) -> str:
    if needed["current"] >= needed["min"]:
        return f"{needed['selector']} ✓"
    return f"{needed['selector']} ⏳ {needed['current']}/{needed['min']}"


def _decision(trace: Mapping[str, Any] | None) -> str | None:
    if not trace:
        return None
    lines = []
    operation = (trace.get("classification") or {}).get("resolved_operation")
    if operation:
        lines.append(f"Operation: {operation}")
    risk = (trace.get("risk") or {}).get("level")
    threshold = (trace.get("decision") or {}).get("auto_approve_threshold")
    if risk:
        lines.append(f"Risk: {risk}" + (f" (approved by itself up to {threshold})" if threshold else ""))
    matched = (trace.get("workflow") or {}).get("matched")
    if matched:
        steps = matched.get("step_count", 0)
        lines.append(f"Workflow: {matched['id']} ({steps} step{'' if steps == 1 else 's'})")
    decision = trace.get("decision") or {}
    if decision.get("outcome"):
        lines.append(f"Outcome: {decision['outcome']} [{', '.join(decision.get('reasons') or [])}]")
    return "\n".join(lines) or None
