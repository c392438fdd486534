"""The schema: what the migrations arrive at, and what happens to a database on the way."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from dbward.db import connect
from dbward.db.migrations import SCHEMA, migrate
from dbward.db.tables import metadata
from dbward.errors import Misconfigured
from dbward.settings.server import StateSettings
from tests.conftest import State
from tests.store.support import keys, put, settings_for

HEAD = ScriptDirectory(str(SCHEMA)).get_current_head()
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def settings(empty_state: State) -> StateSettings:
    return settings_for(empty_state.url)


def plain(index: Any) -> str:
    options = {key: str(value) for key, value in index.pop("dialect_options", {}).items()}
    return f"{index} {options}"


def describe(url: str) -> dict[str, Any]:
    """Every table as the database itself sees it."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.connect() as conn:
        look = inspect(conn)
        found = {
            table: {
                "columns": [
                    (c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in look.get_columns(table)
                ],
                "key": look.get_pk_constraint(table),
                "foreign": sorted(look.get_foreign_keys(table), key=str),
                "unique": sorted(look.get_unique_constraints(table), key=str),
                "checks": sorted(look.get_check_constraints(table), key=str),
                "indexes": sorted(plain(index) for index in look.get_indexes(table)),
            }
            for table in look.get_table_names()
            if table != "alembic_version"
        }
        if conn.dialect.name == "sqlite":
            found["counters"] = sorted(
                name
                for name, sql in conn.execute(text("SELECT name, sql FROM sqlite_master"))
                if "AUTOINCREMENT" in (sql or "")
            )
    engine.dispose()
    return found


def test_migrations_arrive_at_the_tables(settings: StateSettings):
    migrate(settings)
    engine = connect.reader_engine(settings)
    with engine.connect() as conn:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), metadata) == []
    engine.dispose()


def test_migrations_make_what_the_tables_say_to_the_letter(
    empty_state: State, settings: StateSettings, tmp_path, request
):
    """Also what Alembic does not compare: checks, names of constraints, partial indexes, actions of foreign keys."""
    migrate(settings)
    migrated = describe(empty_state.url)
    if empty_state.dialect == "sqlite":
        other = f"sqlite:///{tmp_path / 'other.db'}"
        engine = create_engine(other)
    else:
        other = empty_state.url
        engine = create_engine(other.replace("postgresql://", "postgresql+psycopg2://"))
        metadata.drop_all(engine)
    metadata.create_all(engine)
    engine.dispose()
    assert migrated == describe(other)


def test_a_second_time_changes_nothing(settings: StateSettings, open_one):
    store = open_one()
    store.write(put("a"))
    store.close()
    assert migrate(settings) == HEAD
    assert keys(open_one()) == ["a"]


def test_the_first_time_comes_from_nothing(settings: StateSettings):
    assert migrate(settings) is None
    assert migrate(settings) == HEAD


def test_a_newer_database_is_refused(settings: StateSettings, open_one):
    store = open_one()
    store.write(lambda tx: tx.conn.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    store.close()
    with pytest.raises(Misconfigured, match=r"revision 9999.*newer version") as raised:
        migrate(settings)
    assert raised.value.code == "state_newer"


def test_the_tables_of_somebody_else_are_left_alone(settings: StateSettings):
    url = settings.url.replace("postgresql://", "postgresql+psycopg2://")
    engine = create_engine(url)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE users (name text)"))
    with pytest.raises(Misconfigured, match="table users") as raised:
        migrate(settings)
    assert raised.value.code == "state_foreign"
    assert inspect(engine).get_table_names() == ["users"]
    engine.dispose()


def test_replicas_that_start_together_migrate_once(postgres_url):
    script = "import sys; from tests.store.support import settings_for; from dbward.db.migrations import migrate; "
    command = [sys.executable, "-c", script + "print(migrate(settings_for(sys.argv[1])))", postgres_url]
    with ThreadPoolExecutor(3) as pool:
        runs = list(
            pool.map(
                lambda _: subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True), range(3)
            )
        )
    assert sorted(run.stdout.strip() for run in runs) == sorted([HEAD, HEAD, "None"])


# --- the copy of a SQLite file ---------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dbward.db"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The scripts of a dbward that has one revision more."""
    scripts = tmp_path / "schema"
    shutil.copytree(SCHEMA, scripts)
    (scripts / "versions" / "9000_next.py").write_text(NEXT)
    return scripts


@pytest.fixture
def older(file: Path) -> StateSettings:
    """A database with a row, as this version makes it."""
    settings = settings_for(f"sqlite:///{file}")
    migrate(settings)
    with sqlite3.connect(file) as conn:
        conn.execute("INSERT INTO server_meta VALUES ('a', 'v')")
    conn.close()
    return settings


NEXT = f"""
from alembic import op
import sqlalchemy as sa

revision = "9000"
down_revision = "{HEAD}"


def upgrade() -> None:
    with op.batch_alter_table("requests") as table:
        table.add_column(sa.Column("colour", sa.String(8), server_default="red", nullable=False))
    op.execute("INSERT INTO server_meta VALUES ('b', 'v')")
"""


def tables_and_keys(file: Path) -> tuple[bool, list[str]]:
    conn = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    columns = [row[1] for row in conn.execute("PRAGMA table_info(requests)")]
    found = [row[0] for row in conn.execute("SELECT key FROM server_meta ORDER BY key")]
    assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    conn.close()
    return "colour" in columns, found


def test_the_file_is_copied_aside_before_it_changes(older, newer, file):
    assert migrate(older, scripts=newer) is not None
    assert tables_and_keys(file) == (True, ["a", "b"])
    copy = file.with_name("dbward.db.before-9000")
    assert tables_and_keys(copy) == (False, ["a"])
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_an_earlier_copy_is_never_overwritten(older, newer, file):
    first = file.with_name("dbward.db.before-9000")
    first.write_text("kept")
    file.with_name("dbward.db.before-9000-2").write_text("kept too")
    migrate(older, scripts=newer)
    assert first.read_text() == "kept"
    assert tables_and_keys(file.with_name("dbward.db.before-9000-3")) == (False, ["a"])


def test_a_migration_that_fails_leaves_the_database_as_it_was(older, newer, file):
    broken = newer / "versions" / "9000_next.py"
    broken.write_text(NEXT.replace("VALUES ('b', 'v')", "VALUES ('a', 'v')"))
    with pytest.raises(Exception, match="UNIQUE constraint failed"):
        migrate(older, scripts=newer)
    assert tables_and_keys(file) == (False, ["a"])


def test_a_migration_that_breaks_references_is_undone(older, newer, file):
    broken = newer / "versions" / "9000_next.py"
    insert = "INSERT INTO request_selectors VALUES (''nowhere'', ''role:x'')".replace("''", "'")
    broken.write_text(NEXT.replace("INSERT INTO server_meta VALUES ('b', 'v')", insert))
    with pytest.raises(Misconfigured, match="request_selectors"):
        migrate(older, scripts=newer)
    assert tables_and_keys(file) == (False, ["a"])


def test_a_new_file_needs_no_copy_and_is_readable_by_its_owner_only(file):
    migrate(settings_for(f"sqlite:///{file}"))
    assert [found.name for found in file.parent.iterdir()] == ["dbward.db"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# --- installed -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_migrations_are_part_of_what_is_installed(tmp_path: Path):
    """Built and unpacked as a wheel, away from the source tree."""
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    for package in ("dbward", "tasks", "web", "worker"):  # a copy: building leaves its own files in the source tree
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", wheels, source]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    program = (
        "import sys, types; sys.path.insert(0, sys.argv[1]); import dbward; from datetime import timedelta\n"
        "from dbward.db.migrations import migrate\n"
        "assert dbward.__file__.startswith(sys.argv[1]), dbward.__file__\n"
        "migrate(types.SimpleNamespace(url=sys.argv[2], exclusive=True, lock_wait=timedelta(0)))\n"
    )
    file = tmp_path / "state.db"
    subprocess.run([sys.executable, "-c", program, site, f"sqlite:///{file}"], check=True, cwd=tmp_path)
    assert tables_and_keys(file) == (False, [])
