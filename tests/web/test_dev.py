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


def start(farm: Farm, *options: str) -> tuple[Process, Path]:
    process = farm.spawn("dev", [*DBWARD, "dev", "--port", "0", *options])
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
    process, home = start(farm, "--database-url", url)
    password = url.partition("://")[2].partition("@")[0].partition(":")[2]
    assert run_sql(home, "SELECT 40 + 2 AS n")["result_data"]["rows"] == [{"n": 42}]
    assert f":{password}@" not in process.log()
    for path in home.glob("*.toml"):
        assert f":{password}@" not in path.read_text()
    assert process.terminate(60) == 0


@pytest.mark.e2e
@pytest.mark.parametrize("victim", ["server", "agent"])
def test_a_child_that_dies_is_reported(farm: Farm, victim: str):
    process, _ = start(farm)
    children = {("server" if "server" in c.cmdline() else "agent"): c for c in psutil.Process(process.pid).children()}
    family = psutil.Process(process.pid).children(recursive=True)
    children[victim].kill()
    assert process.wait(60) == 1
    assert f"the {victim} ended by itself" in process.log()
    assert psutil.wait_procs(family, timeout=20)[1] == []


@pytest.mark.e2e
def test_a_port_in_use_is_said(farm: Farm):
    first, home = start(farm)
    port = tomllib.loads((home / "client.toml").read_text())["server"]["url"].rpartition(":")[2]
    second = farm.spawn("second", [*DBWARD, "dev", "--port", port])
    assert second.wait(60) == 1
    assert "cannot listen on" in second.log()
    assert first.alive
    assert first.terminate(60) == 0
