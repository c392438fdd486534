"""`dbward dev` as a process, and its sample database."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import tomllib
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from dbward.cli.dev import without_secrets
from dbward.cli.sample import create_sample
from tests.support import migrated
from tests.support.processes import DBWARD, Farm, Process, call


def test_the_sample_is_whole_and_always_the_same(tmp_path: Path):
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    create_sample(one)
    create_sample(two)
    create_sample(two)  # again, over the first
    dumps = []
    for path in (one, two):
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            tables = ("customers", "products", "orders", "order_items")
            counts = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
            dumps.append("\n".join(db.iterdump()))
    assert sum(counts.values()) > 5000
    assert min(counts.values()) > 100
    assert dumps[0] == dumps[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.db", "two.db"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:hunter2x@db.example:5432/shop?sslmode=require", "postgresql://ann@db.example:5432/shop"),
        ("postgresql://db.example/shop?password=hunter2x", "postgresql://db.example/shop"),
        ("mysql://ann:hunter2x@db.example:port/shop", "the database you named"),
        ("sqlite:////tmp/x.db", "sqlite:///" + "/tmp/x.db"),
    ],
)
def test_a_shown_url_has_no_secret(url: str, shown: str):
    assert without_secrets(url) == shown


def start(farm: Farm, **env: str) -> tuple[Process, Path]:
    process = farm.spawn("dev", [*DBWARD, "dev", "--port", "0"], env=env)
    farm.until(lambda: "dbward dev is ready: " in process.log(), "dev is ready", process)
    return process, farm.dir / "home" / ".dbward" / "dev"


def run_sql(home: Path, sql: str) -> object:
    client = tomllib.loads((home / "client.toml").read_text())
    url, token = client["server"]["url"], client["server"]["token"]
    target = {"database": client["default_database"], "environment": client["default_environment"]}
    status, made = call("POST", f"{url}/api/requests", token, {**target, "detail": sql})
    assert status == 201, made
    status, result = call("GET", f"{url}/api/requests/{made['id']}/result/stream", token)
    assert status == 200, result
    return result


@pytest.mark.e2e
def test_dev_runs_statements_and_stops_cleanly(farm: Farm):
    process, home = start(farm)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in ("client.toml", "agent.toml", "server.toml"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    result = run_sql(home, "SELECT count(*) AS n FROM customers")
    assert result["result_data"]["rows"] == [{"n": 800}]
    assert "server.toml" in json.dumps(sorted(path.name for path in home.iterdir()))
    family = psutil.Process(process.pid).children(recursive=True)
    process.signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert psutil.wait_procs(family, timeout=20)[1] == []
    assert "Traceback" not in process.log()
    again, _ = start(farm)  # the state is kept
    assert run_sql(home, "SELECT 1 AS n")["success"] is True
    assert again.terminate(60) == 0


@pytest.mark.e2e
def test_dev_on_a_named_database_shows_no_password(farm: Farm, postgres_url: str):
    scheme, _, rest = postgres_url.partition("://")
    user, _, place = rest.rpartition("@")
    url = f"{scheme}://{user.partition(':')[0]}:{user.partition(':')[2] or 'hunter2x'}@{place}"
    process, home = start(farm, DBWARD_DEV_DATABASE_URL=url)
    password = url.partition("://")[2].partition("@")[0].partition(":")[2]
    assert run_sql(home, "SELECT 40 + 2 AS n")["result_data"]["rows"] == [{"n": 42}]
    assert f":{password}@" not in process.log()
    for path in home.glob("*.toml"):
        assert f":{password}@" not in path.read_text()
    assert process.terminate(60) == 0


@pytest.mark.e2e
def test_a_child_that_dies_is_reported(farm: Farm):
    process, _ = start(farm)
    family = psutil.Process(process.pid).children(recursive=True)
    next(c for c in psutil.Process(process.pid).children() if "server" in c.cmdline()).kill()
    assert process.wait(60) == 1
    assert "the server ended by itself" in process.log()
    assert psutil.wait_procs(family, timeout=20)[1] == []


@pytest.mark.e2e
def test_what_is_in_the_way_is_said(farm: Farm, tmp_path: Path):
    first, home = start(farm)
    port = tomllib.loads((home / "client.toml").read_text())["server"]["url"].rpartition(":")[2]
    before = {path.name: path.read_bytes() for path in home.glob("*.toml")}
    second = refused(farm, "--port", "0")
    assert second["code"] == "dev.running"
    assert str(first.pid) in second["message"]
    taken = refused(farm, "--port", port, HOME=str(tmp_path / "other"))
    assert taken["code"] == "listen.failed"
    assert "--port 0" in taken["hint"]
    assert {path.name: path.read_bytes() for path in home.glob("*.toml")} == before
    assert first.alive
    assert first.terminate(60) == 0


def refused(farm: Farm, *options: str, **env: str) -> dict[str, str]:
    """The error of a `dbward dev` that does not start; no process of it is left."""
    process = farm.spawn("refused", [*DBWARD, "dev", "--format", "quiet", *options], env=env)
    assert process.wait(60) == 1
    (line,) = process.log().splitlines()
    return json.loads(line)["error"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("oracle://ann:hunter2x@db/shop", "config_error"),
        ("mysql://ann:hunter2x@db/shop?speed=high", "config_error"),
        ("postgresql://ann:hunter2x@db", "config_error"),
    ],
)
def test_a_url_that_is_no_databases(farm: Farm, url: str, code: str):
    error = refused(farm, "--port", "0", "--database-url", url)
    assert error["code"] == code
    assert "hunter2x" not in json.dumps(error)


def test_a_home_of_a_newer_version(farm: Farm):
    home = farm.dir / "home" / ".dbward" / "dev"
    home.mkdir(parents=True)
    migrated.sqlite_copy(home / "dbward.db")
    with closing(sqlite3.connect(home / "dbward.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.execute("DELETE FROM server_meta WHERE key = 'schema_floor'")
    error = refused(farm, "--port", "0")
    assert error["code"] == "state_newer"
    assert f"mv {home}" in error["hint"]


@pytest.mark.e2e
def test_for_programs(farm: Farm, tmp_path: Path):
    """One line when it is ready; a relative path is that of whoever typed it; the environment of another server is not
    taken over."""
    create_sample(farm.dir / "shop.db")
    elsewhere = {"DBWARD_STATE_URL": f"sqlite:///{tmp_path}/elsewhere.db"}
    options = ["--port", "0", "--format", "json", "--database-url", "sqlite:///shop.db"]
    process = farm.spawn("dev", [*DBWARD, "dev", *options], env=elsewhere)
    farm.until(lambda: process.log().endswith("\n"), "dev has said something", process)
    home = farm.dir / "home" / ".dbward" / "dev"
    said = json.loads(process.log())
    assert said["data"]["config"] == str(home / "client.toml")
    assert run_sql(home, "SELECT count(*) AS n FROM customers")["result_data"]["rows"] == [{"n": 800}]
    assert not (tmp_path / "elsewhere.db").exists()
    family = psutil.Process(process.pid).children(recursive=True)
    agent = next(c for c in psutil.Process(process.pid).children() if "agent" in c.cmdline())
    agent.kill()
    assert process.wait(60) == 1
    assert process.log().count("\n") == 1
    assert "database app/development is up" in (home / "dev.log").read_text()
    assert psutil.wait_procs(family, timeout=20)[1] == []
