"""What approvers are shown beside a request: its tables, what the review found, the risk, and how it would run."""

from __future__ import annotations

from typing import Any

from dbward.db.engine import Connection
from dbward.db.rows import RequestRow
from dbward.domain.sql.statements import Name
from dbward.services import explains, schemas
from dbward.services.views import View


def of_request(conn: Connection, row: RequestRow) -> View | None:
    """The context; None for a request that asked that nothing of its results be kept."""
    if row.no_result_store:
        return None
    trace: dict[str, Any] = row.decision or {}
    named = [Name(one["name"], one["schema_name"]) for one in trace.get("tables", [])]
    known = schemas.tables_named(conn, row.target, named)
    plans = explains.of_request(conn, row.id)
    return {
        "status": plans["status"] if plans is not None else "ready",
        "explain_enabled": plans is not None,
        "explain": plans["explain"] if plans is not None else None,
        "explain_reason": plans["reason"] if plans is not None else None,
        "tables": known if known is not None else [str(name) for name in named],
        "sql_review": {
            "findings": trace.get("sql_review", {}).get("findings", []),
            "blocked": trace.get("sql_review", {}).get("blocked", False),
        },
        "risk": {
            "level": trace.get("risk", {}).get("level"),
            "factors": trace.get("risk", {}).get("details", []),
        },
    }
