"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
additive = False


def _utc() -> sa.DateTime:
    """SQLite keeps times as text of fixed width."""
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def _big_id() -> sa.BigInteger:
    """Only INTEGER PRIMARY KEY counts up by itself on SQLite."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("subject_id", sa.String(128), nullable=False),
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("session", sa.String(64), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("databases", sa.JSON(), nullable=False),
        sa.Column("operations", sa.JSON(), nullable=False),
        sa.Column("max_concurrent", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("active_jobs", sa.JSON(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("started_at", _utc(), nullable=False),
        sa.Column("last_seen_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
    )
    op.create_table(
        "audit_events",
        sa.Column("seq", _big_id(), nullable=False, autoincrement=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("event_category", sa.String(16), nullable=False),
        sa.Column("event_version", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("actor_id", sa.String(255), nullable=False),
        sa.Column("actor_type", sa.String(8), nullable=False),
        sa.Column("resource_type", sa.String(32), nullable=True),
        sa.Column("resource_id", sa.String(255), nullable=True),
        sa.Column("peer_ip", sa.String(64), nullable=True),
        sa.Column("client_ip", sa.String(64), nullable=True),
        sa.Column("client_ip_source", sa.String(8), nullable=True),
        sa.Column("request_id", sa.String(36), nullable=True),
        sa.Column("operation", sa.String(32), nullable=True),
        sa.Column("database_name", sa.String(63), nullable=True),
        sa.Column("environment", sa.String(63), nullable=True),
        sa.Column("detail_fingerprint", sa.Text(), nullable=True),
        sa.Column("detail_raw", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("metadata_json", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("event_hash", sa.String(64), nullable=False),
        sa.Column("chain_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_events"),
        sa.UniqueConstraint("id", name="uq_audit_events_id"),
    )
    op.create_index("ix_audit_events_actor_id", "audit_events", ["actor_id"])
    op.create_index("ix_audit_events_created_at", "audit_events", ["created_at"])
    op.create_index("ix_audit_events_event_type", "audit_events", ["event_type"])
    op.create_index("ix_audit_events_request_id", "audit_events", ["request_id"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=True),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_prev_hash", sa.String(64), nullable=True),
        sa.Column("checkpoint_seq", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_at", _utc(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_single_row")),
    )
    op.create_table(
        "broker_queues",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(128), nullable=True),
        sa.Column("owner_session", sa.String(64), nullable=True),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("message_ttl_ms", sa.BigInteger(), nullable=True),
        sa.Column("alive_until", _utc(), nullable=True),
        sa.Column("created_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_broker_queues"),
    )
    op.create_index("ix_broker_queues_alive_until", "broker_queues", ["alive_until"])
    op.create_table(
        "broker_sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("node", sa.String(255), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("alive_until", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_broker_sessions"),
    )
    op.create_index("ix_broker_sessions_alive_until", "broker_sessions", ["alive_until"])
    op.create_table(
        "dialects",
        sa.Column("database", sa.String(63), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("updated_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("database", "environment", name="pk_dialects"),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("requester", sa.String(128), nullable=False),
        sa.Column("database", sa.String(63), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("statements", sa.JSON(), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("emergency", sa.Boolean(), nullable=False),
        sa.Column("allow_ddl", sa.Boolean(), nullable=False),
        sa.Column("no_result_store", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("share_with", sa.JSON(), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("idempotency_fingerprint", sa.String(64), nullable=True),
        sa.Column("workflow", sa.JSON(), nullable=True),
        sa.Column("decision", sa.JSON(), nullable=False),
        sa.Column("current_step", sa.Integer(), nullable=False),
        sa.Column("execution_id", sa.String(36), nullable=True),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("updated_at", _utc(), nullable=False),
        sa.Column("expires_at", _utc(), nullable=True),
        sa.Column("approved_at", _utc(), nullable=True),
        sa.Column("dispatched_at", _utc(), nullable=True),
        sa.Column("resolved_at", _utc(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("cancelled_by", sa.String(128), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_requests"),
        sa.UniqueConstraint("requester", "idempotency_key", name="uq_requests_requester_idempotency_key"),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"])
    op.create_index("ix_requests_requester_created_at", "requests", ["requester", "created_at"])
    op.create_index("ix_requests_status_updated_at", "requests", ["status", "updated_at"])
    op.create_table(
        "server_meta",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_server_meta"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("subject_type", sa.String(8), nullable=False),
        sa.Column("subject_id", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(8), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("ceiling", sa.JSON(), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=True),
        sa.Column("expires_at", _utc(), nullable=True),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("revoked_at", _utc(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )
    op.create_index("ix_tokens_prefix", "tokens", ["prefix"])
    op.create_index("ix_tokens_subject", "tokens", ["subject_type", "subject_id"])
    op.create_table(
        "users",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("updated_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("step_index", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("matched_selector", sa.String(160), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("created_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_approvals_request_id", ondelete="CASCADE"),
        sa.UniqueConstraint(
            "request_id", "step_index", "actor", "action", name="uq_approvals_request_id_step_index_actor_action"
        ),
        sa.CheckConstraint("action in ('approve', 'reject')", name=op.f("ck_approvals_action")),
    )
    op.create_index("ix_approvals_actor", "approvals", ["actor"])
    op.create_table(
        "broker_bindings",
        sa.Column("exchange", sa.String(255), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "routing_key", "queue", name="pk_broker_bindings"),
        sa.ForeignKeyConstraint(["queue"], ["broker_queues.name"], name="fk_broker_bindings_queue", ondelete="CASCADE"),
    )
    op.create_index("ix_broker_bindings_queue", "broker_bindings", ["queue"])
    op.create_table(
        "broker_messages",
        sa.Column("id", _big_id(), nullable=False, autoincrement=True),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("mid", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("available_at", _utc(), nullable=False),
        sa.Column("expires_at", _utc(), nullable=True),
        sa.Column("lease_session", sa.String(64), nullable=True),
        sa.Column("lease_until", _utc(), nullable=True),
        sa.Column("tag", sa.String(64), nullable=True),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("dead_at", _utc(), nullable=True),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_broker_messages"),
        sa.ForeignKeyConstraint(["queue"], ["broker_queues.name"], name="fk_broker_messages_queue", ondelete="CASCADE"),
        sa.UniqueConstraint("mid", "queue", name="uq_broker_messages_mid_queue"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_broker_messages_job_id", "broker_messages", ["job_id"])
    op.create_index("ix_broker_messages_lease_session", "broker_messages", ["lease_session"])
    op.create_index("ix_broker_messages_queue_id", "broker_messages", ["queue", "id"])
    op.create_index("ix_broker_messages_tag", "broker_messages", ["tag"])
    op.create_table(
        "executions",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("agent_id", sa.String(255), nullable=True),
        sa.Column("session", sa.String(64), nullable=True),
        sa.Column("claim_id", sa.String(36), nullable=True),
        sa.Column("start_nonce", sa.String(64), nullable=True),
        sa.Column("limits", sa.JSON(), nullable=True),
        sa.Column("lease_until", _utc(), nullable=True),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("claimed_at", _utc(), nullable=True),
        sa.Column("started_at", _utc(), nullable=True),
        sa.Column("finished_at", _utc(), nullable=True),
        sa.Column("rows_affected", sa.BigInteger(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("outcome_digest", sa.String(64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_executions_request_id", ondelete="CASCADE"),
    )
    op.create_index("ix_executions_request_id", "executions", ["request_id"])
    op.create_index("ix_executions_status_lease_until", "executions", ["status", "lease_until"])
    op.create_index(
        "uq_executions_one_active",
        "executions",
        ["request_id"],
        unique=True,
        sqlite_where=sa.text("status in ('queued', 'claimed', 'running')"),
        postgresql_where=sa.text("status in ('queued', 'claimed', 'running')"),
    )
    op.create_table(
        "request_selectors",
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("selector", sa.String(160), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "selector", name="pk_request_selectors"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name="fk_request_selectors_request_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_request_selectors_selector", "request_selectors", ["selector"])
    op.create_table(
        "results",
        sa.Column("execution_id", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("storage_key", sa.String(255), nullable=False),
        sa.Column("content_length", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("truncation_reason", sa.Text(), nullable=True),
        sa.Column("stored_at", _utc(), nullable=False),
        sa.Column("expires_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", name="pk_results"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="fk_results_execution_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_results_request_id", ondelete="CASCADE"),
    )
    op.create_index("ix_results_expires_at", "results", ["expires_at"])
    op.create_index("ix_results_request_id", "results", ["request_id"])
    op.create_table(
        "result_access",
        sa.Column("execution_id", sa.String(36), nullable=False),
        sa.Column("selector", sa.String(160), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "selector", name="pk_result_access"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["results.execution_id"], name="fk_result_access_execution_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_result_access_selector", "result_access", ["selector"])
