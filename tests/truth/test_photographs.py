"""The photographs show what a statement did: else they would prove nothing when they are equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbward.domain.model import Dialect
from tests.truth import worlds
from tests.truth.photographs import differences
from tests.truth.worlds import World

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE

ACTS = {
    PG: """
        UPDATE users SET name = name WHERE id = 1
        SELECT 1 FROM users FOR UPDATE
        DELETE FROM items
        SELECT nextval('app_seq')
        SELECT w()
        SELECT 5::evil_dom
        SELECT 1 <~> 2
        SELECT lo_create(0)
        SELECT lo_put(4711, 0, 'x')
        SELECT pg_advisory_lock(1)
        NOTIFY ch
        LISTEN ch2
        PREPARE p AS SELECT 1
        CREATE TEMP TABLE gone AS SELECT 1
        SET work_mem = '1MB'
        ALTER SYSTEM SET work_mem = '2MB'
        ALTER DATABASE app SET work_mem = '2MB'
        COMMENT ON TABLE users IS 'x'
        ANALYZE users
        REFRESH MATERIALIZED VIEW mv_totals
        CREATE ROLE somebody
        SELECT pg_create_physical_replication_slot('slot')
        SELECT pg_stat_reset()
        COPY users TO PROGRAM 'cat > copied'
        COPY (SELECT 1) TO PROGRAM 'cat > copied_too'
        BEGIN; INSERT INTO t2 VALUES (7); ROLLBACK
        SET ROLE pg_monitor
    """,
    MY: """
        UPDATE users SET name = 'x' WHERE id = 1
        DELETE FROM people
        SELECT w()
        SELECT NEXTVAL(s1)
        SELECT GET_LOCK('a', 0)
        SELECT 1 INTO @x
        SET @y = 1
        SET SESSION sql_mode = ''
        SET GLOBAL wait_timeout = 77
        SET NAMES latin1
        CREATE TEMPORARY TABLE gone AS SELECT 1 AS a
        CREATE VIEW v2 AS SELECT 1
        ALTER TABLE t COMMENT = 'x'
        CREATE USER somebody
        SELECT 1 INTO OUTFILE 'copied'
        ANALYZE TABLE users PERSISTENT FOR ALL
        START TRANSACTION; INSERT INTO t2 VALUES (7, 1, 1); ROLLBACK
        LOCK TABLES t READ
    """,
    SL: """
        SELECT w()
        SELECT bump(id) FROM users
        UPDATE users SET name = 'x' WHERE id = 1
        INSERT INTO t (id) VALUES (3)
        PRAGMA user_version = 3
        PRAGMA cache_size = 17
        PRAGMA soft_heap_limit = 100000000
        ANALYZE
        INSERT INTO words(words) VALUES ('optimize')
        ATTACH ':memory:' AS other
        VACUUM INTO '{directory}/copy.db'
        CREATE TEMP TABLE gone (a)
        BEGIN
        BEGIN; DELETE FROM t; ROLLBACK
    """,
}
"""Each on the world that the one before it left."""


def shown(world: World, acts: str) -> None:
    unseen = []
    before = world.photograph()
    for act in filter(None, map(str.strip, acts.splitlines())):
        assert world.run([act]), act
        after = world.photograph()
        if not differences(before, after):
            unseen.append(act)
        before = after
    assert unseen == []


def test_on_postgresql(postgres: str) -> None:
    with worlds.postgresql(postgres, bare=True) as world:
        shown(world, ACTS[PG])


def test_on_mariadb(mariadb: str) -> None:
    with worlds.mysql(mariadb, bare=True) as world:
        shown(world, ACTS[MY])


@pytest.mark.usefixtures("restored_limits")
def test_on_sqlite(tmp_path: Path) -> None:
    with worlds.sqlite(tmp_path, bare=True) as world:
        shown(world, ACTS[SL].format(directory=tmp_path))
