"""The schema: what the migrations arrive at, and what happens to a database on the way."""

from __future__ import annotations

import queue
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, inspect, text

from dbward.db import connect, revisions
from dbward.db.engine import open_store
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


# --- upgrades while servers run --------------------------------------------------------------------------------------


def upgraded(settings: StateSettings, scripts: Path, text: str) -> str | None:
    """The state after a dbward with one revision more has started on it."""
    (scripts / "versions" / "9000_next.py").write_text(text)
    return migrate(settings, scripts=scripts)


def test_this_version_works_on_newer_tables_that_say_so(settings: StateSettings, newer: Path, open_one, caplog):
    migrate(settings)
    upgraded(settings, newer, NEXT)
    assert migrate(settings) == "9000"
    assert "revision 9000, of a newer version of dbward" in caplog.text
    assert keys(open_one()) == ["b"]
    assert migrate(settings, scripts=newer) == "9000", "and the newer one goes on"


@pytest.mark.parametrize("said", ["additive = False", "", "additive = 'yes'"])
def test_newer_tables_that_do_not_say_so_are_refused(settings: StateSettings, newer: Path, said: str):
    migrate(settings)
    upgraded(settings, newer, NEXT.replace("additive = True", said))
    with pytest.raises(Misconfigured, match=r"revision 9000.*newer version") as raised:
        migrate(settings)
    assert raised.value.code == "state_newer"


def test_an_additive_step_after_one_that_is_not_is_refused_as_well(settings: StateSettings, newer: Path):
    migrate(settings)
    (newer / "versions" / "9001_last.py").write_text(
        'revision = "9001"\ndown_revision = "9000"\nadditive = True\n\n\ndef upgrade() -> None:\n    pass\n'
    )
    upgraded(settings, newer, NEXT.replace("additive = True", "additive = False"))
    with pytest.raises(Misconfigured, match=r"revision 9001.*newer version"):
        migrate(settings)


def test_an_additive_upgrade_goes_on_beside_running_servers(postgres_url: str, newer: Path):
    settings = settings_for(postgres_url)
    migrate(settings)
    store = open_store(settings, on_wake=lambda _: None)
    assert upgraded(settings, newer, NEXT) == HEAD
    store.write(put("a"))
    assert keys(store) == ["a", "b"]
    store.close()


def test_one_that_they_would_not_survive_waits_for_them(postgres_url: str, newer: Path):
    settings = settings_for(postgres_url)
    migrate(settings)
    store = open_store(settings, on_wake=lambda _: None)
    breaking = NEXT.replace("additive = True", "additive = False")
    with pytest.raises(Misconfigured, match="what running servers rely on") as raised:
        upgraded(settings, newer, breaking)
    assert raised.value.code == "state_in_use"
    assert migrate(settings) == HEAD, "nothing has changed"
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(upgraded, replace(settings, lock_wait=timedelta(seconds=60)), newer, breaking)
        store.close()
        assert patient.result(60) == HEAD
    with pytest.raises(Misconfigured, match="newer version"):
        open_store(settings, on_wake=lambda _: None)


def test_a_server_that_finds_itself_on_newer_tables_ends(postgres_url: str, newer: Path):
    """It had lost its connections while somebody upgraded."""
    settings = settings_for(postgres_url)
    migrate(settings)
    ended: queue.Queue[BaseException] = queue.Queue()
    store = open_store(settings, on_wake=lambda _: None, on_fatal=ended.put)
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9000'")
        conn.execute("UPDATE server_meta SET value = '9000' WHERE key = 'schema_floor'")
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert isinstance(ended.get(timeout=60), Misconfigured)
    store.close()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_migration_that_says_it_is_additive_is(dialect: str, request: pytest.FixtureRequest, sqlite_path: Path):
    """Whatever the code of the revision before reads and writes is still there, and takes what it took."""
    url = f"sqlite:///{sqlite_path}" if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    scripts = ScriptDirectory(str(SCHEMA))
    steps = list(reversed(list(scripts.walk_revisions())))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    before: dict[str, Any] = {}
    for step in steps:
        assert step.path.endswith(f"/{step.revision}_{Path(step.path).name.partition('_')[2]}"), "named as it is called"
        assert isinstance(getattr(step.module, "additive", None), bool), f"{step.path} must say whether it is additive"
        statements.clear()
        with engine.begin() as conn:
            config = Config()
            config.set_main_option("script_location", str(SCHEMA))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = conn
            command.upgrade(config, step.revision)
        after = describe(url)
        if revisions.is_additive(step):
            assert losses(before, after) == [], step.path
            assert [s for s in statements if touches(s, before)] == [], step.path
        before = after
    engine.dispose()


def losses(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What older code may miss, or may now be refused."""
    found = []
    for table, was in before.items():
        if table == "counters":
            continue
        if (now := after.get(table)) is None:
            found.append(f"the table {table}")
            continue
        found += [f"{table}: column {c} or what it was" for c in was["columns"] if c not in now["columns"]]
        found += [f"{table}: {part}" for part in ("key", "foreign", "checks", "unique") if was[part] != now[part]]
        own = {c[0] for c in was["columns"]}
        for name, _, nullable, default in now["columns"]:
            if name not in own and not nullable and default == "None":
                found.append(f"{table}: {name} must be given")
        for index in set(now["indexes"]) - set(was["indexes"]):
            covers = set(re.findall(r"'(\w+)'", index.partition("'column_names': [")[2].partition("]")[0]))
            if "'unique': True" in index and covers <= own:
                found.append(f"{table}: {index}")
    return found


def touches(statement: str, before: Collection[str]) -> bool:
    """Whether it changes rows that older code has written, or drops or renames anything."""
    found = re.match(r"(?i)\s*(UPDATE|DELETE\s+FROM|INSERT\s+INTO|TRUNCATE)\s+\"?(\w+)", statement)
    if found is not None:
        return found.group(2) in before
    return re.search(r"(?i)\b(DROP|RENAME)\b", statement) is not None


def test_what_is_not_additive_is_found():
    column = ("a", "TEXT", True, "None")
    old = {"columns": [column], "key": {}, "foreign": [], "unique": [], "checks": [], "indexes": []}
    index = "{'name': 'i', 'column_names': ['a'], 'unique': True} {}"
    for change in (
        {"columns": []},
        {"columns": [("a", "TEXT", False, "None")]},
        {"columns": [column, ("b", "TEXT", False, "None")]},
        {"checks": ["a > 0"]},
        {"indexes": [index]},
    ):
        assert losses({"t": old}, {"t": {**old, **change}}) != []
    assert losses({"t": old}, {}) == ["the table t"]
    fine = {"columns": [column, ("b", "TEXT", True, "None")], "indexes": [index.replace("['a']", "['a', 'b']")]}
    assert losses({"t": old}, {"t": {**old, **fine}, "new": old}) == []
    for statement in (
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "ALTER TABLE t DROP COLUMN a",
        "alter table t rename to u",
    ):
        assert touches(statement, {"t": old})
    assert not touches("UPDATE alembic_version SET version_num = '2'", {"t"})


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
additive = True


def upgrade() -> None:
    with op.batch_alter_table("requests") as table:
        table.add_column(sa.Column("colour", sa.String(8), server_default="red", nullable=False))
    op.execute("INSERT INTO server_meta VALUES ('b', 'v')")
"""


def tables_and_keys(file: Path) -> tuple[bool, list[str]]:
    conn = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    columns = [row[1] for row in conn.execute("PRAGMA table_info(requests)")]
    found = [row[0] for row in conn.execute("SELECT key FROM server_meta WHERE value = 'v' ORDER BY key")]
    assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    conn.close()
    return "colour" in columns, found


def test_the_file_is_copied_aside_before_it_changes(older, newer, file):
    """So that it can be put back as docs/deployment/upgrading.md says."""
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
