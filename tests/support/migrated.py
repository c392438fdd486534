"""A state database of today's tables, made once per session and copied for each test: cheaper than migrating."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbward.db.migrations import migrate
from dbward.settings.server import StateSettings
from tests.support import services

_TEMPLATE = "migrated"


def sqlite_copy(path: Path) -> str:
    """Put the tables into the new file `path`; its URL."""
    template = services.shared("migrated-sqlite", _make_sqlite)
    shutil.copyfile(template, path)
    path.chmod(0o600)
    return f"sqlite:///{path}"


@contextmanager
def postgres_copy() -> Iterator[str]:
    """URL of a database with the tables; dropped at the end."""
    services.shared("migrated-postgres", _make_postgres)
    with services.fresh_postgres(template=_TEMPLATE) as url:
        yield url


def _make_sqlite(home: Path) -> str:
    path = home / "state.db"
    migrate(StateSettings(url=f"sqlite:///{path}"))
    return str(path)


def _make_postgres(_home: Path) -> str:
    url = services.make_postgres(_TEMPLATE)
    migrate(StateSettings(url=url))
    return url
