"""Alembic's entry point. The connection and its transaction belong to whoever starts it."""

from __future__ import annotations

from alembic import context

from dbward.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
