"""dbmate and the agent on the same folder and the same database: both see the same versions, whoever applied them."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dbward.client.agent_api import AgentApi
from dbward.domain.migration import Pinned
from dbward.domain.model import Dialect
from dbward.migrate.files import read_directory
from tests.support.dbmate import dbmate
from tests.worker.migrations import DOWN, ENGINES, UP, applied, bench, steps
from tests.worker.targets import TargetDb, empty
from tests.worker.tiny_server import TinyServer

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="dbmate is pinned for Linux on x86-64 only"
)


@pytest.fixture(params=ENGINES)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    made = empty(request.param, request, tmp_path / "target.db")
    made.direct("CREATE TABLE unrelated (id integer)")  # an agent never makes a file
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    for n in (1, 2, 3):
        text = f"-- migrate:up\nCREATE TABLE t{n} (id integer)\n\n-- migrate:down\nDROP TABLE t{n}\n"
        (made / f"2026010100000{n}_t{n}.sql").write_text(text)
    return made


def pinned(folder: Path, numbers: str, *, down: bool = False) -> list[Pinned]:
    found = [one for one in read_directory(folder) if one.version[-1] in numbers]
    scripts = [(one, one.down if down else one.up) for one in found]
    made = [Pinned(one.version, one.name, one.checksum, True, [script.sql]) for one, script in scripts if script]
    return made[::-1] if down else made


def recorded(db: TargetDb, files: list[Pinned]) -> list[Pinned]:
    """With the checksums that the database has of them."""
    known = {one.version: one.checksum for one in applied(db)}
    return [replace(one, recorded=known[one.version]) for one in files]


def status(db: TargetDb, folder: Path) -> list[bool]:
    """Of each file by name: whether dbmate has it as applied."""
    return [mark == "X" for mark in re.findall(r"^\[(.)\] ", dbmate(db.url, folder, "status"), re.MULTILINE)]


def columns(db: TargetDb) -> list[tuple[object, ...]]:
    """Of the table of versions, as far as an engine says."""
    if db.dialect is Dialect.SQLITE:
        return db.direct("PRAGMA table_info(schema_migrations)")
    return db.direct(
        "SELECT column_name, data_type, character_maximum_length, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_name = 'schema_migrations'"
        f" AND table_schema = {'current_schema()' if db.dialect is Dialect.POSTGRESQL else 'database()'}"
    )


def test_dbmate_began_and_we_go_on(server: TinyServer, api: AgentApi, db: TargetDb, folder: Path) -> None:
    later = (folder / "20260101000003_t3.sql").rename(folder.parent / "later")
    dbmate(db.url, folder, "migrate")
    later.rename(folder / "20260101000003_t3.sql")
    assert [one.version[-1] for one in applied(db)] == ["1", "2"]
    with bench(server, api, db.url) as agent:
        done = agent.run(UP, *pinned(folder, "123"))
        assert [what for _, what in steps(done)] == ["skipped", "skipped", "applied"]
        assert status(db, folder) == [True, True, True]
        back = recorded(db, pinned(folder, "23", down=True))
        assert [what for _, what in steps(agent.run(DOWN, *back))] == ["reverted"] * 2
    assert status(db, folder) == [True, False, False]
    assert [one.version[-1] for one in applied(db)] == ["1"]


def test_we_began_and_dbmate_goes_on(server: TinyServer, api: AgentApi, db: TargetDb, folder: Path) -> None:
    with bench(server, api, db.url) as agent:
        agent.run(UP, *pinned(folder, "12"))
        ours = columns(db)
        assert status(db, folder) == [True, True, False]
        dbmate(db.url, folder, "migrate")
        assert [(one.version[-1], one.request_id) for one in applied(db)] == [
            ("1", "request-e1"),
            ("2", "request-e1"),
            ("3", None),
        ]
        for _ in "32":
            dbmate(db.url, folder, "rollback")
        assert [one.version[-1] for one in applied(db)] == ["1"]
        assert [what for _, what in steps(agent.run(UP, *pinned(folder, "123")))] == ["skipped", "applied", "applied"]
    assert status(db, folder) == [True, True, True]
    db.direct("DROP TABLE schema_migrations", *(f"DROP TABLE t{n}" for n in (1, 2, 3)))
    dbmate(db.url, folder, "migrate")
    assert columns(db) == ours
