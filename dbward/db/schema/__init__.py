"""Alembic's script directory; `dbward.db.migrations` runs it."""
