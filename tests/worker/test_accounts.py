"""Accounts that could write where an agent only reads."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

import pytest

from dbward.domain.model import Operation, Target
from tests.worker.targets import TargetDb, mysql, postgresql
from worker import accounts
from worker.accounts import can_write, warn_of_writer
from worker.drivers import open_driver

TARGET = Target("app", "production")


def _as(db: TargetDb, user: str) -> str:
    parts = urlsplit(db.url)
    return parts._replace(netloc=f"{user}:pw@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def role() -> str:
    return f"dbward_{token_hex(4)}"


@pytest.fixture
def pg(postgres_url: str, role: str) -> Iterator[TargetDb]:
    db = postgresql(postgres_url)
    db.direct(
        "CREATE TABLE t (id int, name text)",
        "CREATE SEQUENCE s",
        f"CREATE ROLE {role} LOGIN PASSWORD 'pw'",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT ON t TO {role}",
    )
    yield db
    db.direct(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("SELECT 1", False),
        ("GRANT pg_read_all_data TO {role}", False),
        ("GRANT SELECT ON s TO {role}", False),
        ("GRANT INSERT ON t TO {role}", True),
        ("GRANT TRUNCATE ON t TO {role}", True),
        ("GRANT UPDATE (name) ON t TO {role}", True),
        ("GRANT USAGE ON SEQUENCE s TO {role}", True),
        ("GRANT CREATE ON SCHEMA public TO {role}", True),
        ("GRANT pg_write_all_data TO {role}", True),
        ("ALTER TABLE t OWNER TO {role}", True),
        ("ALTER ROLE {role} SUPERUSER", True),
    ],
)
def test_on_postgresql(pg: TargetDb, role: str, grant: str, expected: bool) -> None:
    pg.direct(grant.format(role=role))
    assert can_write(open_driver(_as(pg, role))) is expected


@pytest.fixture
def my(mariadb_url: str, role: str) -> Iterator[TargetDb]:
    db = mysql(mariadb_url)
    database = urlsplit(mariadb_url).path[1:]
    db.direct(
        "CREATE TABLE t (id int, name varchar(10))",
        f"CREATE USER {role} IDENTIFIED BY 'pw'",
        f"CREATE ROLE {role}_r",
        f"GRANT SELECT, SHOW VIEW ON `{database}`.* TO {role}",
    )
    yield db
    db.direct(f"DROP USER {role}", f"DROP ROLE {role}_r")


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("SELECT 1", False),
        ("GRANT PROCESS ON *.* TO {role}", False),
        ("GRANT EXECUTE ON {db}.* TO {role}", False),
        ("GRANT SELECT (id) ON t TO {role}", False),
        ("GRANT INSERT ON {db}.* TO {role}", True),
        ("GRANT UPDATE (name), SELECT (id, name) ON t TO {role}", True),
        ("GRANT CREATE ON {db}.* TO {role}", True),
        ("GRANT FILE ON *.* TO {role}", True),
        ("GRANT ALL ON *.* TO {role}", True),
        ("GRANT {role}_r TO {role}", None),
    ],
)
def test_on_mariadb(my: TargetDb, role: str, grant: str, expected: bool | None) -> None:
    my.direct(grant.format(role=role, db=urlsplit(my.url).path[1:]))
    assert can_write(open_driver(_as(my, role))) is expected


def test_on_sqlite(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite3.connect(sqlite_path).execute("CREATE TABLE t (a)").connection.close()
    driver = open_driver(f"sqlite:///{sqlite_path}")
    assert can_write(driver) is True
    with monkeypatch.context() as rights:
        rights.setattr(accounts.os, "access", lambda path, mode: False)  # root may write whatever the file's mode is
        assert can_write(driver) is False


def test_a_database_that_is_away(free_port: int) -> None:
    assert can_write(open_driver(f"postgresql://u:p@127.0.0.1:{free_port}/db")) is None


def test_only_where_only_reads_are_asked_for(sqlite_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sqlite3.connect(sqlite_path).execute("CREATE TABLE t (a)").connection.close()
    driver = open_driver(f"sqlite:///{sqlite_path}")
    with caplog.at_level(logging.WARNING):
        warn_of_writer(TARGET, driver, [Operation.EXECUTE_SELECT, Operation.EXECUTE_DML])
        assert caplog.messages == []
        warn_of_writer(TARGET, driver, [Operation.EXECUTE_SELECT])
    (said,) = caplog.messages
    assert "app" in said
    assert "can write" in said
