"""Every table of the state database. Alembic's migrations must arrive at exactly this (tests/store/test_migrations.py).

Times are UTC. SQLite keeps them as fixed-width ISO 8601 text so that they sort; PostgreSQL as `timestamptz`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


class Utc(TypeDecorator[datetime]):
    """An aware UTC datetime with microseconds on both dialects."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=True) if dialect.name == "postgresql" else String(27))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the state database")
        at = value.astimezone(UTC)
        return at if dialect.name == "postgresql" else at.strftime(_FORMAT)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - as inherited
        if value is None or isinstance(value, datetime):
            return value.astimezone(UTC) if value is not None else None
        return datetime.strptime(value, _FORMAT).replace(tzinfo=UTC)


_BigId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts up by itself on SQLite
_Id = String(36)
_Name = String(128)

users = Table(
    "users",
    metadata,
    Column("id", _Name, primary_key=True),
    Column("roles", JSON, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("source", String(16), nullable=False),  # bootstrap | config | api | oidc
    Column("created_at", Utc, nullable=False),
    Column("updated_at", Utc, nullable=False),
    Column("display_name", String(200)),
    Column("email", String(320)),
    Column("slack_user_id", String(32)),
    Column("last_seen_at", Utc),
    Column("suspended_by", _Name),  # `system`: not in the configuration any more; only a person undoes what one did
    Column("deleted_at", Utc),
    Index("uq_users_slack_user_id", "slack_user_id", unique=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("subject_type", String(8), nullable=False),
    Column("subject_id", _Name, nullable=False),
    Column("prefix", String(8), nullable=False, index=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("name", _Name),
    Column("kind", String(16), nullable=False),  # bootstrap | config | initial | issued
    Column("ceiling", JSON),  # role names, or null: no ceiling
    Column("scopes", JSON),  # [[database, environment], ...] of an agent; null: none set, which means all
    Column("expires_at", Utc),
    Column("created_at", Utc, nullable=False),
    Column("revoked_at", Utc),
    Index("ix_tokens_subject", "subject_type", "subject_id"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("requester", _Name, nullable=False),
    Column("database", String(63), nullable=False),
    Column("environment", String(63), nullable=False),
    Column("operation", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("statements", JSON, nullable=False),  # what will run, one text a statement
    Column("dialect", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("emergency", Boolean, nullable=False),
    Column("allow_ddl", Boolean, nullable=False),
    Column("no_result_store", Boolean, nullable=False),
    Column("reason", Text),
    Column("metadata", JSON, nullable=False),
    Column("share_with", JSON, nullable=False),
    Column("idempotency_key", String(255)),
    Column("idempotency_fingerprint", String(64)),
    Column("workflow", JSON),  # snapshot: later changes of the configuration do not reach open requests
    Column("decision", JSON, nullable=False),
    Column("current_step", Integer, nullable=False),
    Column("execution_id", _Id),  # the execution it is dispatched for, or the last one
    Column("created_at", Utc, nullable=False),
    Column("updated_at", Utc, nullable=False),
    Column("expires_at", Utc),
    Column("approved_at", Utc),
    Column("dispatched_at", Utc),
    Column("resolved_at", Utc),
    Column("cancel_reason", Text),
    Column("cancelled_by", _Name),
    UniqueConstraint("requester", "idempotency_key"),
    Index("ix_requests_status_updated_at", "status", "updated_at"),
    Index("ix_requests_created_at", "created_at"),
    Index("ix_requests_requester_created_at", "requester", "created_at"),
)

request_selectors = Table(  # the selectors of the current step: who may see and decide a pending request
    "request_selectors",
    metadata,
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("selector", String(160), primary_key=True),
    Index("ix_request_selectors_selector", "selector"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), nullable=False),
    Column("step_index", Integer, nullable=False),
    Column("actor", _Name, nullable=False),
    Column("action", String(8), nullable=False),
    Column("matched_selector", String(160), nullable=False),
    Column("comment", Text),
    Column("created_at", Utc, nullable=False),
    UniqueConstraint("request_id", "step_index", "actor", "action"),
    CheckConstraint("action in ('approve', 'reject')", name="action"),
    Index("ix_approvals_actor", "actor"),
)

executions = Table(
    "executions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("status", String(16), nullable=False),
    Column("agent_id", String(255)),
    Column("session", String(64)),  # the agent process
    Column("claim_id", _Id),  # also the id of the execution token: spent by `start`
    Column("start_nonce", String(64)),
    Column("limits", JSON),
    Column("lease_until", Utc),
    Column("created_at", Utc, nullable=False),
    Column("claimed_at", Utc),
    Column("started_at", Utc),
    Column("finished_at", Utc),
    Column("rows_affected", BigInteger),
    Column("duration_ms", BigInteger),
    Column("error", JSON),
    Column("outcome_digest", String(64)),  # of the completion call, so that its retry is told apart from another one
    Column("migrations", JSON),  # [{version, name, outcome, duration_ms}]; null unless it is one
    Index("ix_executions_status_lease_until", "status", "lease_until"),
    Index(
        "uq_executions_one_active",
        "request_id",
        unique=True,
        sqlite_where=text("status in ('queued', 'claimed', 'running')"),
        postgresql_where=text("status in ('queued', 'claimed', 'running')"),
    ),
)

results = Table(
    "results",
    metadata,
    Column("execution_id", ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("storage_key", String(255), nullable=False),
    Column("content_length", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("truncation_reason", Text),
    Column("stored_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False, index=True),
)

agents = Table(
    "agents",
    metadata,
    Column("id", String(255), primary_key=True),  # the Celery node name: <subject>@<instance>
    Column("subject_id", _Name, nullable=False),
    Column("token_id", _Id, nullable=False),
    Column("session", String(64), nullable=False),
    Column("version", String(32), nullable=False),
    Column("databases", JSON, nullable=False),  # [{database, environment, dialect, status, error}]
    Column("operations", JSON, nullable=False),
    Column("max_concurrent", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("active_jobs", JSON, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("last_seen_at", Utc, nullable=False),
)

dialects = Table(  # what the agents said each target is; until then the configuration's or the default
    "dialects",
    metadata,
    Column("database", String(63), primary_key=True),
    Column("environment", String(63), primary_key=True),
    Column("dialect", String(16), nullable=False),
    Column("updated_at", Utc, nullable=False),
)

schema_uploads = Table(  # a snapshot of a target database, on its way from an agent or complete
    "schema_uploads",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("database", String(63), nullable=False),
    Column("environment", String(63), nullable=False),
    Column("token_id", _Id, nullable=False),
    Column("session", String(64), nullable=False),  # the agent process
    Column("dialect", String(16), nullable=False),
    Column("begun_at", Utc, nullable=False),
    Column("last_at", Utc, nullable=False, index=True),
    Index("ix_schema_uploads_target", "database", "environment"),
)

schema_snapshots = Table(  # the latest word on each target: which upload is the complete one, and how the last try went
    "schema_snapshots",
    metadata,
    Column("database", String(63), primary_key=True),
    Column("environment", String(63), primary_key=True),
    Column("upload_id", ForeignKey("schema_uploads.id"), index=True),  # null: none has ever been complete
    Column("status", String(16), nullable=False),  # ready | partial | failed
    Column("dialect", String(16), nullable=False),
    Column("content_hash", String(64)),  # of the tables without their row estimates
    Column("table_count", Integer, nullable=False),
    Column("unread", JSON, nullable=False),  # names of tables that could not be read; not all of them if there are many
    Column("error", Text),  # of the last try, when it failed
    Column("collected_at", Utc),  # when the collection of `upload_id` began
    Column("tried_at", Utc, nullable=False),
)

schema_tables = Table(
    "schema_tables",
    metadata,
    Column("upload_id", ForeignKey("schema_uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("schema_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("folded_name", Text, nullable=False),  # in lower case, to be found however it is spelled
    Column("folded_path", Text, nullable=False),  # `schema.name` in lower case
    Column("kind", String(20), nullable=False),
    Column("estimated_rows", BigInteger),  # null: the database does not know
    Column("column_count", Integer, nullable=False),
    Column("constraint_count", Integer, nullable=False),
    Column("index_count", Integer, nullable=False),
    Column("content", JSON, nullable=False),  # columns, constraints and indexes, as the API shows them
    Column("digest", String(64), nullable=False),  # of everything but the row estimate
    Index("ix_schema_tables_folded_name", "upload_id", "folded_name"),
    Index("ix_schema_tables_folded_path", "upload_id", "folded_path"),
)

schema_edges = Table(  # one row for each pair of tables with a foreign key between them
    "schema_edges",
    metadata,
    Column("upload_id", String(36), primary_key=True),
    Column("parent_path", Text, primary_key=True),  # `schema.name` of the table it refers to, in lower case
    Column("schema_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    ForeignKeyConstraint(
        ["upload_id", "schema_name", "name"],
        ["schema_tables.upload_id", "schema_tables.schema_name", "schema_tables.name"],
        ondelete="CASCADE",
    ),
    Index("ix_schema_edges_name", "upload_id", "schema_name", "name"),
)

explains = Table(  # what agents are asked: plans for a preflight or for approvers, or what is migrated
    "explains",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), index=True),  # null: somebody waits for it
    Column("requested_by", _Name, nullable=False),
    Column("database", String(63), nullable=False),
    Column("environment", String(63), nullable=False),
    Column("dialect", String(16), nullable=False),
    Column("statements", JSON, nullable=False),  # [{sql, refused, aliases}]; with a reason in `refused` it is not asked
    Column("timeout_ms", Integer, nullable=False),  # for each statement
    Column("status", String(16), nullable=False),
    Column("agent_id", String(255)),
    Column("claim_id", _Id),  # also the id of the token
    Column("created_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False),
    Column("finished_at", Utc),
    Column("outcome", JSON),  # [{sql, plan}, or {sql, error, hint}]; of migrations {versions} or {error}
    Column("reason", Text),  # why there is no outcome
    Column("kind", String(16), nullable=False, server_default="plans"),
    Index("ix_explains_status_expires_at", "status", "expires_at"),
    Index("ix_explains_requested_by_status", "requested_by", "status"),
)

webhook_deliveries = Table(  # what webhooks are to be told; written in the transaction of the event itself
    "webhook_deliveries",
    metadata,
    Column("id", String(39), primary_key=True),
    Column("webhook_id", String(64), nullable=False),
    Column("event_type", String(64), nullable=False),
    Column("request_id", _Id),  # not a reference: a delivery may outlive its request
    Column("payload", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("last_error", Text),
    Column("created_at", Utc, nullable=False),
    Column("next_retry_at", Utc),  # set from the beginning: a first try that a crash cut short is made again
    Column("finished_at", Utc),
    Index("ix_webhook_deliveries_status_next_retry_at", "status", "next_retry_at"),
    Index("ix_webhook_deliveries_created_at", "created_at"),
    Index("ix_webhook_deliveries_finished_at", "finished_at"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("seq", _BigId, primary_key=True, autoincrement=False),
    Column("id", _Id, nullable=False, unique=True),
    Column("event_type", String(64), nullable=False),
    Column("event_category", String(16), nullable=False),
    Column("event_version", Integer, nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("actor_id", String(255), nullable=False),
    Column("actor_type", String(8), nullable=False),
    Column("resource_type", String(32)),
    Column("resource_id", String(255)),
    Column("peer_ip", String(64)),
    Column("client_ip", String(64)),
    Column("client_ip_source", String(8)),
    Column("request_id", _Id),
    Column("operation", String(32)),
    Column("database_name", String(63)),
    Column("environment", String(63)),
    Column("detail_fingerprint", Text),
    Column("detail_raw", Text),
    Column("reason", Text),
    Column("metadata_json", Text, nullable=False),
    Column("prev_hash", String(64)),
    Column("created_at", String(32), nullable=False),  # the very text that is hashed
    Column("event_hash", String(64), nullable=False),
    Column("chain_version", Integer, nullable=False),
    Index("ix_audit_events_request_id", "request_id"),
    Index("ix_audit_events_created_at", "created_at"),
    Index("ix_audit_events_event_type", "event_type"),
    Index("ix_audit_events_actor_id", "actor_id"),
    Index("ix_audit_events_database_name_environment", "database_name", "environment"),
    Index("ix_audit_events_outcome", "outcome"),
)

audit_head = Table(  # one row, updated first by every append: it serialises writers, and a cut tail contradicts it
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64)),
    Column("signature", String(128), nullable=False),
    Column("first_seq", BigInteger, nullable=False),  # after a purge: the first row that must exist
    Column("first_prev_hash", String(64)),
    Column("checkpoint_seq", BigInteger, nullable=False),
    Column("checkpoint_at", Utc),
    CheckConstraint("id = 1", name="single_row"),
)

broker_queues = Table(
    "broker_queues",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("owner", _Name),  # token id of whoever declared it; null: the server
    Column("owner_session", String(64)),
    Column("exclusive", Boolean, nullable=False),
    Column("expires_ms", BigInteger),
    Column("message_ttl_ms", BigInteger),
    Column("alive_until", Utc, index=True),
    Column("created_at", Utc, nullable=False),
)

broker_bindings = Table(
    "broker_bindings",
    metadata,
    Column("exchange", String(255), primary_key=True),
    Column("routing_key", String(255), primary_key=True),
    Column("queue", ForeignKey("broker_queues.name", ondelete="CASCADE"), primary_key=True),
    Column("type", String(16), nullable=False),
    Index("ix_broker_bindings_queue", "queue"),
)

broker_messages = Table(
    "broker_messages",
    metadata,
    Column("id", _BigId, primary_key=True, autoincrement=True),
    Column("queue", ForeignKey("broker_queues.name", ondelete="CASCADE"), nullable=False),
    Column("mid", String(64), nullable=False),
    Column("job_id", _Id),  # the execution of a job message, so that cancel and dispatch time-out can withdraw it
    Column("body", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("available_at", Utc, nullable=False),
    Column("expires_at", Utc),
    Column("lease_session", String(64)),
    Column("lease_until", Utc),
    Column("tag", String(64)),
    Column("deliveries", Integer, nullable=False),
    Column("dead_at", Utc),
    Column("dead_reason", Text),
    UniqueConstraint("mid", "queue"),
    Index("ix_broker_messages_queue_id", "queue", "id"),
    Index("ix_broker_messages_lease_session", "lease_session"),
    Index("ix_broker_messages_job_id", "job_id"),
    Index("ix_broker_messages_tag", "tag"),
    sqlite_autoincrement=True,
)

broker_sessions = Table(  # one per client process; bound to the token that opened it
    "broker_sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("token_id", _Id, nullable=False),
    Column("node", String(255)),
    Column("last_seq", BigInteger, nullable=False),
    Column("alive_until", Utc, nullable=False, index=True),
)

server_meta = Table(
    "server_meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

allowances = Table(  # what each server process counted in a minute of the Unix epoch; only where there are several
    "allowances",
    metadata,
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("process", _Id, primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("count", BigInteger, nullable=False),
)
