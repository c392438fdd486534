"""Schema snapshots: agents send what they found in pieces, people and decisions see the last complete one.

What a snapshot says replaces the one before in the transaction of its commit; until then nobody sees a piece of it. A
failed collection leaves the tables that are known, and says that they can no longer be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dbward import ids
from dbward.canonical import canonical_json, sha256_hex
from dbward.client.shapes import SchemaFilter
from dbward.client.wire import SchemaBegin, SchemaCommit, SchemaFailure, SchemaTables, SchemaUpload, WireTable
from dbward.db import schemas
from dbward.db.engine import Connection, Tx
from dbward.db.rows import SnapshotRow, TableRow, UploadRow
from dbward.domain import rbac
from dbward.domain.model import Event, Permission, Principal, Target
from dbward.domain.risk import cascades
from dbward.domain.schema import SchemaStatus
from dbward.domain.sql.statements import Name
from dbward.errors import Conflict, Missing, Refused, TooLarge
from dbward.runtime import Runtime
from dbward.services.agents import dialect_at, reporting
from dbward.services.journal import record, record_refusal
from dbward.services.views import View

TABLES_MAX: Final = 50_000
"""Tables in one snapshot."""
TABLES_SHOWN: Final = 50
"""Tables beside one request."""
SAME_NAME_MAX: Final = 50
"""Schemas that a message lists when a name is in several."""

_PREFERRED: Final = ("production", "staging", "development")
UNKNOWN_ROWS: Final = -1
"""What clients are told for a table whose size is not known: the API has always sent a number."""


# --- agents -----------------------------------------------------------------------------------------------------------


def begin(rt: Runtime, who: Principal, asked: SchemaBegin) -> SchemaUpload:
    """Open an upload; what this process left unfinished for the target is dropped.

    Raises `Refused` (a target outside the token's scopes, or one the process has not declared), `Missing` (not
    registered) and `Unavailable` (`agent.unknown`: report first).
    """
    target = _admit(rt, who, Target(asked.database, asked.environment))

    def work(tx: Tx) -> SchemaUpload:
        _declared(tx.conn, who, asked, target)
        now = rt.now()
        row = UploadRow(
            id=ids.new_id(),
            database=target.database,
            environment=target.environment,
            token_id=who.token_id or "",
            session=asked.session,
            dialect=asked.dialect,
            begun_at=now,
            last_at=now,
        )
        schemas.begin(tx, row)
        return SchemaUpload(upload_id=row.id)

    return rt.store.write(work)


def add_tables(rt: Runtime, who: Principal, upload_id: str, asked: SchemaTables) -> None:
    """Take a piece of a snapshot; the same piece again changes nothing.

    Raises `Missing`, `Refused`, `Conflict` (`schema.complete`) and `TooLarge` (more than `TABLES_MAX` tables in all).
    """
    rows = list({(row.schema_name, row.name): row for row in map(_row, asked.tables)}.values())

    def work(tx: Tx) -> None:
        upload = _own_upload(rt, who, tx.conn, upload_id)
        if _counts(tx.conn, upload):
            raise Conflict("this snapshot is complete", code="schema.complete")
        schemas.put_tables(tx, upload_id, rows, rt.now())
        if schemas.count_tables(tx.conn, upload_id) > TABLES_MAX:
            raise TooLarge(f"a snapshot may hold at most {TABLES_MAX} tables")

    rt.store.write(work)


def commit(rt: Runtime, who: Principal, upload_id: str, asked: SchemaCommit) -> None:
    """Make an upload the snapshot that counts, unless a later one has come meanwhile. May be repeated.

    Raises `Missing`, `Refused` and `Conflict` (`schema.incomplete`: a piece has not arrived).
    """

    def work(tx: Tx) -> None:
        upload = _own_upload(rt, who, tx.conn, upload_id)
        if _counts(tx.conn, upload):
            return
        if (count := schemas.count_tables(tx.conn, upload_id)) != asked.tables:
            raise Conflict(f"{count} of {asked.tables} tables have arrived", code="schema.incomplete")
        before = schemas.find(tx.conn, upload.target)
        if before is not None and before.collected_at is not None and before.collected_at > upload.begun_at:
            schemas.drop_upload(tx, upload_id)
            return
        after = SnapshotRow(
            database=upload.database,
            environment=upload.environment,
            upload_id=upload_id,
            status=SchemaStatus.PARTIAL if asked.unread_count else SchemaStatus.READY,
            dialect=upload.dialect,
            content_hash=_content_hash(tx.conn, upload_id),
            table_count=count,
            unread=asked.unread,
            error=None,
            collected_at=upload.begun_at,
            tried_at=rt.now(),
        )
        schemas.publish(tx, after)
        if before is None or (before.status, before.content_hash) != (after.status, after.content_hash):
            said = {"tables": count, "unread": asked.unread_count, "content_hash": after.content_hash}
            _record(rt, tx, Event.SCHEMA_SNAPSHOT_UPDATED, who, after, said)

    rt.store.write(work)


def fail(rt: Runtime, who: Principal, asked: SchemaFailure) -> None:
    """Note that the schema could not be collected; what was known before is kept, as not to be trusted.

    Raises as `begin`.
    """
    target = _admit(rt, who, Target(asked.database, asked.environment))
    error = asked.error.splitlines()[0] if asked.error.strip() else "no reason given"

    def work(tx: Tx) -> None:
        _declared(tx.conn, who, asked, target)
        if asked.upload_id is not None:
            upload = schemas.find_upload(tx.conn, asked.upload_id)
            if upload is not None and upload.token_id == who.token_id:
                schemas.drop_upload(tx, asked.upload_id)
        before = schemas.find(tx.conn, target)
        after = SnapshotRow(
            database=target.database,
            environment=target.environment,
            upload_id=before.upload_id if before is not None else None,
            status=SchemaStatus.FAILED,
            dialect=asked.dialect,
            content_hash=before.content_hash if before is not None else None,
            table_count=before.table_count if before is not None else 0,
            unread=before.unread if before is not None else [],
            error=error,
            collected_at=before.collected_at if before is not None else None,
            tried_at=rt.now(),
        )
        schemas.publish(tx, after)
        if before is None or (before.status, before.error) != (after.status, after.error):
            _record(rt, tx, Event.SCHEMA_SNAPSHOT_FAILED, who, after, {})

    rt.store.write(work)


def _admit(rt: Runtime, who: Principal, target: Target) -> Target:
    """The target, if this token may serve it. A refusal is recorded, but not each time an agent tries again."""
    if (refusal := rbac.refuse(who, Permission.AGENT_OPERATE, target=target, owner=None)) is not None:
        if rt.tokens.worth_recording(f"agent:{who.token_id}", rt.now()):
            rt.store.write(
                lambda tx: record_refusal(
                    rt, tx, refusal, actor=who, request=None, action="agent.schema", target=target
                )
            )
        raise refusal
    if target not in rt.settings.policy.targets:
        raise Missing(f"{target} is not registered on the server", code="not_found")
    return target


def _declared(conn: Connection, who: Principal, asked: SchemaBegin | SchemaFailure, target: Target) -> None:
    """Raise unless the process has reported that it serves the target as this dialect."""
    if dialect_at(reporting(conn, asked.session, who), target) != asked.dialect:
        raise Refused(f"this agent has not reported that it serves {target} as {asked.dialect}")


def _own_upload(rt: Runtime, who: Principal, conn: Connection, upload_id: str) -> UploadRow:
    """The upload, for the token that opened it and as long as that serves the target. Raises `Missing`, `Refused`."""
    upload = schemas.find_upload(conn, upload_id)
    if upload is None or upload.token_id != who.token_id:
        raise Missing("no such upload", code="schema.unknown_upload", hint="begin again")
    if (refusal := rbac.refuse(who, Permission.AGENT_OPERATE, target=upload.target, owner=None)) is not None:
        raise refusal
    if upload.target not in rt.settings.policy.targets:
        raise Missing(f"{upload.target} is not registered on the server", code="not_found")
    return upload


def _counts(conn: Connection, upload: UploadRow) -> bool:
    snapshot = schemas.find(conn, upload.target)
    return snapshot is not None and snapshot.upload_id == upload.id


def _row(table: WireTable) -> TableRow:
    content = {
        "columns": [column.model_dump(mode="json") for column in table.columns],
        "constraints": [one.model_dump(mode="json", exclude_none=True) for one in table.constraints],
        "indexes": [index.model_dump(mode="json") for index in table.indexes],
    }
    return TableRow(
        schema_name=table.schema_name,
        name=table.name,
        kind=table.kind,
        estimated_rows=table.estimated_rows,
        column_count=len(table.columns),
        constraint_count=len(table.constraints),
        index_count=len(table.indexes),
        content=content,
        digest=sha256_hex(canonical_json({"kind": table.kind, **content})),
    )


def _content_hash(conn: Connection, upload_id: str) -> str:
    """Over all tables; without the row estimates, which change all the time."""
    return sha256_hex(canonical_json(schemas.digests(conn, upload_id)))


def _record(rt: Runtime, tx: Tx, event: Event, who: Principal, row: SnapshotRow, said: dict[str, Any]) -> None:
    failed = row.status is SchemaStatus.FAILED
    record(
        rt,
        tx,
        event,
        actor=who,
        target=row.target,
        resource=("schema", str(row.target)),
        failed=failed,
        reason=row.error,
        metadata={"status": row.status, **said},
    )


# --- people -----------------------------------------------------------------------------------------------------------


def show(rt: Runtime, who: Principal, database: str, asked: SchemaFilter) -> View:
    """The snapshot of one target: summaries of its tables, all of them whole, or one table.

    Without an environment: the first that has a snapshot and that this person may see, production first. Raises
    `Refused`, and `Missing` (`not_found`) for what does not exist or is ambiguous.
    """
    with rt.store.read() as conn:
        found = _choose(rt, who, conn, database, asked.environment)
        assert found.upload_id is not None
        view: View = {
            "database": found.database,
            "environment": found.environment,
            "dialect": found.dialect,
            "status": found.status,
            "collected_at": found.collected_at,
        }
        if found.error is not None:
            view["error"] = found.error
        if found.unread:
            view["unread"] = found.unread
        if asked.table is not None:
            view["table"] = _whole(_find_table(conn, found.upload_id, asked.table))
        elif asked.summary:
            view["tables"] = [_summary(one) for one in schemas.summaries(conn, found.upload_id)]
        else:
            view["tables"] = [_whole(row) for row in schemas.all_tables(conn, found.upload_id)]
    return view


def tables_named(conn: Connection, target: Target, names: Iterable[Name]) -> list[View] | None:
    """The tables that `names` may mean, whole, with what a delete reaches from them; None without a ready snapshot."""
    snapshot = schemas.find(conn, target)
    if snapshot is None or snapshot.upload_id is None or snapshot.status is not SchemaStatus.READY:
        return None
    wanted = tuple(names)
    around = schemas.neighbourhood(conn, target, wanted)
    views = []
    for row in schemas.find_tables(conn, snapshot.upload_id, wanted, most=TABLES_SHOWN):
        own = around.candidates(Name(row.name, row.schema_name))
        children = [
            {
                "table_name": child.name.name,
                "schema_name": child.name.schema,
                "estimated_rows": _rows(child.estimated_rows),
                "depth": depth,
            }
            for child, depth in cascades(own, around)
        ]
        cut = around.status is not SchemaStatus.READY
        views.append(
            _whole(row) | ({"cascade_children": children, "cascade_children_truncated": cut} if children else {})
        )
    return views


def _choose(rt: Runtime, who: Principal, conn: Connection, database: str, environment: str | None) -> SnapshotRow:
    """What is outside of this person's scope is answered for as if it were not there, or the same in both cases."""
    asked = Target(database, environment) if environment is not None else None
    if (refusal := rbac.refuse(who, Permission.SCHEMA_READ, target=asked, owner=None)) is not None:
        raise refusal
    visible = {
        target
        for target in rt.settings.policy.targets
        if target.database == database and rbac.allowed(who, Permission.SCHEMA_READ, target)
    }
    if asked is not None:
        visible &= {asked}
    if not visible:
        raise Missing(f"{asked or f'database {database}'} is not registered", code="not_found")
    known = [row for row in schemas.of_database(conn, database) if row.target in visible]
    if complete := [row for row in known if row.upload_id is not None]:
        return min(complete, key=_preference)
    raise _no_snapshot(str(asked or database), known[0] if known else None)


def _preference(row: SnapshotRow) -> tuple[bool, int, str]:
    """What can be trusted comes first, then the environments in the order in which people ask for them."""
    known = row.environment in _PREFERRED
    rank = _PREFERRED.index(row.environment) if known else len(_PREFERRED)
    return row.status is not SchemaStatus.READY, rank, row.environment


def _no_snapshot(what: str, last: SnapshotRow | None) -> Missing:
    why = "no agent has sent it yet" if last is None else f"the last try failed: {last.error}"
    return Missing(f"there is no schema snapshot of {what}: {why}", code="not_found")


def _find_table(conn: Connection, upload_id: str, text: str) -> TableRow:
    """The table that `name` or `schema.name` means: as it is spelled, or letter case aside when none is."""
    schema, _, bare = text.rpartition(".")
    meant = [Name(text), *([Name(bare, schema)] if schema and bare else [])]
    rows = schemas.find_tables(conn, upload_id, meant, most=SAME_NAME_MAX)
    exact = [row for row in rows if text in (row.name, f"{row.schema_name}.{row.name}")]
    rows = exact or rows
    if not rows:
        raise Missing(f"there is no table {text}", code="not_found")
    if len(rows) > 1:
        places = ", ".join(sorted(f"{row.schema_name}.{row.name}" for row in rows))
        raise Missing(f"several tables are called {text}: {places}", code="not_found")
    return rows[0]


def _summary(row: dict[str, Any]) -> View:
    return {**row, "estimated_rows": _rows(row["estimated_rows"])}


def _whole(row: TableRow) -> View:
    return {
        "name": row.name,
        "schema_name": row.schema_name,
        "kind": row.kind,
        "estimated_rows": _rows(row.estimated_rows),
        **row.content,
    }


def _rows(estimate: int | None) -> int:
    return UNKNOWN_ROWS if estimate is None else estimate
