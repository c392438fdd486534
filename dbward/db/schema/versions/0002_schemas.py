"""Snapshots of the target databases' schemas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
additive = True


def _utc() -> sa.DateTime:
    """SQLite keeps times as text of fixed width."""
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "schema_uploads",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("database", sa.String(63), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("session", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("begun_at", _utc(), nullable=False),
        sa.Column("last_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schema_uploads"),
    )
    op.create_index("ix_schema_uploads_last_at", "schema_uploads", ["last_at"])
    op.create_index("ix_schema_uploads_target", "schema_uploads", ["database", "environment"])
    op.create_table(
        "schema_snapshots",
        sa.Column("database", sa.String(63), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("upload_id", sa.String(36), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=True),
        sa.Column("table_count", sa.Integer(), nullable=False),
        sa.Column("unread", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("collected_at", _utc(), nullable=True),
        sa.Column("tried_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("database", "environment", name="pk_schema_snapshots"),
        sa.ForeignKeyConstraint(["upload_id"], ["schema_uploads.id"], name="fk_schema_snapshots_upload_id"),
    )
    op.create_index("ix_schema_snapshots_upload_id", "schema_snapshots", ["upload_id"])
    op.create_table(
        "schema_tables",
        sa.Column("upload_id", sa.String(36), nullable=False),
        sa.Column("schema_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("folded_name", sa.Text(), nullable=False),
        sa.Column("folded_path", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("estimated_rows", sa.BigInteger(), nullable=True),
        sa.Column("column_count", sa.Integer(), nullable=False),
        sa.Column("constraint_count", sa.Integer(), nullable=False),
        sa.Column("index_count", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "schema_name", "name", name="pk_schema_tables"),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["schema_uploads.id"], name="fk_schema_tables_upload_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_schema_tables_folded_name", "schema_tables", ["upload_id", "folded_name"])
    op.create_index("ix_schema_tables_folded_path", "schema_tables", ["upload_id", "folded_path"])
    op.create_table(
        "schema_edges",
        sa.Column("upload_id", sa.String(36), nullable=False),
        sa.Column("parent_path", sa.Text(), nullable=False),
        sa.Column("schema_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "parent_path", "schema_name", "name", name="pk_schema_edges"),
        sa.ForeignKeyConstraint(
            ["upload_id", "schema_name", "name"],
            ["schema_tables.upload_id", "schema_tables.schema_name", "schema_tables.name"],
            name="fk_schema_edges_upload_id_schema_name_name",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_schema_edges_name", "schema_edges", ["upload_id", "schema_name", "name"])
