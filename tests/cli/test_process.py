"""The program as a process, with a real server and a real agent: terminals, pipes, Ctrl-C, outages, big results."""

from __future__ import annotations

import csv
import json
import os
import secrets
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import CTRL_C, OnTerminal
from tests.support.processes import DBWARD, Farm, Server

pytestmark = pytest.mark.e2e

TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("alice", "bob")}
CONFIG = """
[auth]
[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${T_ALICE}"
[[auth.users]]
id = "bob"
roles = ["approver", "operator"]
token = "${T_BOB}"
[[databases]]
name = "shop"
environments = ["development", "production"]
[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"
[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver" }]
[[execution_policies]]
environment = "development"
statement_timeout_secs = 300
max_rows = 1000000
[result_storage]
max_persist_bytes = 200000000
"""
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
MANY = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {}) "
    "SELECT x, 'some text of a row' AS t FROM c"
)


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]

    @property
    def error(self) -> Any:
        return json.loads(self.out)["error"]


@dataclass
class Shop:
    """A server, an agent, and a SQLite database with 100 items."""

    farm: Farm
    server: Server
    home: Path
    database: Path

    def env(self, who: str = "alice", **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "DBWARD_SERVER_URL": self.server.url,
            "DBWARD_TOKEN": TOKENS[who],
            "DBWARD_DATABASE": "shop",
            "DBWARD_YES": "1",
            **more,
        }

    def run(self, *argv: str, who: str = "alice", stdin: str = "", cwd: Path | None = None) -> Ran:
        made = subprocess.run(
            [*DBWARD, *argv],
            env=self.env(who),
            cwd=cwd or self.home,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(made.returncode, made.stdout, made.stderr)

    def start(self, *argv: str, who: str = "alice") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*DBWARD, *argv],
            env=self.env(who),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def newest(self) -> dict[str, Any]:
        listed = self.run("request", "list", "--limit", "1", "--format", "json", who="bob").data["requests"]
        found: dict[str, Any] = listed[0] if listed else {"id": "", "status": ""}
        return found

    def until_newest_is(self, status: str, not_id: str = "") -> str:
        """The id of the newest request, once it is another than `not_id` and in that status."""

        def ready() -> str:
            newest = self.newest()
            return newest["id"] if newest["status"] == status and newest["id"] != not_id else ""

        return self.farm.until(ready, f"the newest request is {status}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    database = directory / "shop.db"
    with closing(sqlite3.connect(database)) as conn, conn:
        conn.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price INTEGER)")
        conn.executemany("INSERT INTO items VALUES (?, ?, ?)", [(i, f"item {i}", i * 10) for i in range(100)])
    farm = Farm(directory)
    try:
        server = farm.server(config=CONFIG, env={f"T_{name.upper()}": token for name, token in TOKENS.items()})
        url = f"sqlite:///{database}"
        farm.agent(server, {("shop", "development"): url, ("shop", "production"): url})
        home = directory / "person"
        home.mkdir()
        yield Shop(farm, server, home, database)
    finally:
        farm.close()


@pytest.fixture
def terminal(shop: Shop) -> Iterator[Callable[..., OnTerminal]]:
    opened: list[OnTerminal] = []

    def opener(*argv: str, **env: str) -> OnTerminal:
        opened.append(OnTerminal(argv, shop.env(**{"DBWARD_YES": "", **env}), shop.home))
        return opened[-1]

    yield opener
    for one in opened:
        one.close()


def test_a_table_through_a_pipe(shop: Shop) -> None:
    ran = shop.run("execute", "SELECT id, name, NULL AS note FROM items ORDER BY id LIMIT 2")
    assert ran.status == 0
    assert ran.out == "id  name    note\n──  ──────  ────\n 0  item 0  NULL\n 1  item 1  NULL\n"
    assert ran.err.startswith("(2 rows, ")
    assert "\x1b" not in ran.err


def test_no_rows_and_changed_rows(shop: Shop) -> None:
    none = shop.run("execute", "SELECT id, name FROM items WHERE id < 0")
    assert (none.status, none.out) == (0, "id  name\n──  ────\n")
    changed = shop.run("execute", "UPDATE items SET price = price WHERE id < 5")
    assert (changed.status, changed.out) == (0, "5 rows affected\n")


def test_json_for_programs(shop: Shop) -> None:
    ran = shop.run("execute", "SELECT id, name FROM items WHERE id = 7", "--format", "json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.data["success"] is True
    assert ran.data["result_data"]["rows"] == [{"id": 7, "name": "item 7"}]
    assert [column["name"] for column in ran.data["result_data"]["columns"]] == ["id", "name"]
    quiet = shop.run("execute", "SELECT 1 AS a, 2 AS a", "--format", "quiet")
    assert quiet.data["result_data"]["rows"] == [{"a": 1, "a_2": 2}]


def test_the_tables(shop: Shop) -> None:
    listed = shop.farm.until(lambda: shop.run("schema", "list").out, "the agent has sent the tables")
    assert "items" in listed
    shown = shop.run("schema", "show", "items", "-e", "development")
    assert "id INTEGER PRIMARY KEY" in shown.out
    assert "(shop/development, sqlite, seen " in shown.err
    assert shop.run("schema", "show", "items", "--format", "json").data["table"]["name"] == "items"
    missing = shop.run("schema", "show", "nothing", "--format", "json")
    assert (missing.status, missing.error["code"]) == (1, "not_found")


def test_what_the_database_refused(shop: Shop) -> None:
    ran = shop.run("execute", "SELECT * FROM no_such_table")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("Error: no such table: no_such_table")
    again = shop.run("execute", "SELECT * FROM no_such_table", "--format", "json")
    assert again.status == 1
    assert again.error["code"] == "statement.failed"
    assert "no such table" in again.error["message"]
    assert again.data["success"] is False
    newest = shop.newest()["id"]
    stored = shop.run("request", "result", newest)
    assert (stored.status, stored.out) == (1, "")
    assert "no such table" in stored.err
    assert "no such table" in shop.run("request", "result", newest, "--list").out
    assert "no such table" in shop.run("request", "show", newest).out


def test_a_stored_result_in_every_format(shop: Shop) -> None:
    shop.run("execute", "SELECT id, name FROM items WHERE id IN (1, 2) ORDER BY id")
    newest = shop.newest()["id"]
    assert newest[:8] in shop.run("request", "results").out
    rows = list(csv.reader(shop.run("request", "result", newest[:8], "--result-format", "csv").out.splitlines()))
    assert rows == [["id", "name"], ["1", "item 1"], ["2", "item 2"]]
    vertical = shop.run("request", "result", newest, "--result-format", "vertical").out
    assert vertical == "*** Row 1 ***\nid: 1\nname: item 1\n\n*** Row 2 ***\nid: 2\nname: item 2\n"
    made = json.loads(shop.run("request", "result", newest, "--result-format", "json").out)
    assert made["rows"] == [[1, "item 1"], [2, "item 2"]]
    execution = shop.run("request", "result", newest, "--list", "--format", "json").data["executions"][0]
    assert execution["has_stored_result"] is True
    assert shop.run("request", "result", newest, "--execution", execution["id"][:8]).status == 0
    assert shop.run("result", "get", newest[:8], "--result-format", "vertical").out == vertical
    assert newest[:8] in shop.run("result", "list").out


def test_saving(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    ran = shop.run("execute", "SELECT id FROM items WHERE id < 2", "--output", str(path))
    assert (ran.status, ran.out, path.read_text()) == (0, "", "id\n0\n1\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in ran.err
    (tmp_path / "dbward.toml").write_text('[results]\ndir = "kept"\nformat = "vertical"\n')
    kept = shop.run("execute", "SELECT id FROM items WHERE id = 3", cwd=tmp_path)
    assert kept.out == "*** Row 1 ***\nid: 3\n"
    copies = list((tmp_path / "kept").iterdir())
    assert [json.loads(copy.read_text())["rows"] for copy in copies] == [[[3]]]
    assert str(copies[0]) in kept.err
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    shop.run("execute", "SELECT id FROM items WHERE id = 4", "--no-save", cwd=tmp_path)
    assert list((tmp_path / "kept").iterdir()) == copies


def test_a_result_that_is_not_stored_is_seen_once(shop: Shop) -> None:
    ran = shop.run("execute", "SELECT 42 AS answer", "--no-result-store", "--format", "json")
    assert ran.status == 0
    assert ran.data["result_data"]["rows"] == [{"answer": 42}]
    assert "not stored" in json.loads(ran.out)["warnings"][0]
    again = shop.run("request", "result", shop.newest()["id"], "--format", "json")
    assert (again.status, again.error["code"]) == (1, "result.not_stored")


def test_waiting_for_the_approval(shop: Shop) -> None:
    waiting = shop.start("execute", "SELECT 5 AS five", "-e", "production", "--wait", "--format", "json")
    request_id = shop.until_newest_is("pending")
    assert shop.run("request", "approve", request_id, who="bob").status == 0
    out, err = waiting.communicate(timeout=120)
    assert (waiting.returncode, err) == (0, "")
    assert json.loads(out)["data"]["result_data"]["rows"] == [{"five": 5}]


def test_waiting_for_an_approval_that_is_refused(shop: Shop) -> None:
    waiting = shop.start("execute", "SELECT 6", "-e", "production", "--wait", "--format", "json")
    request_id = shop.until_newest_is("pending")
    shop.run("request", "reject", request_id, "--reason", "no", who="bob")
    out, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 1
    assert json.loads(out)["error"]["code"] == "rejected"
    assert json.loads(out)["error"]["message"].endswith("was rejected: no")


def test_a_server_that_goes_away_while_one_waits(shop: Shop) -> None:
    waiting = shop.start("execute", "SELECT 8 AS eight", "-e", "production", "--wait", "--format", "json")
    request_id = shop.until_newest_is("pending")
    shop.server.process.kill()
    shop.server.start_again()
    assert shop.run("request", "approve", request_id, who="bob").status == 0
    out, _ = waiting.communicate(timeout=120)
    assert (waiting.returncode, json.loads(out)["data"]["result_data"]["rows"]) == (0, [{"eight": 8}])


def test_time_is_up(shop: Shop) -> None:
    ran = shop.run("execute", ENDLESS, "--timeout", "1", "--format", "json")
    assert (ran.status, ran.error["code"]) == (124, "timeout")
    request_id = ran.data["request_id"]
    assert shop.run("request", "show", request_id, "--format", "json").data["status"] in {"dispatched", "running"}
    assert shop.run("request", "cancel", request_id).status == 0
    assert shop.newest()["status"] == "cancelled"


def test_an_interrupt_without_a_terminal(shop: Shop) -> None:
    before = shop.newest()["id"]
    waiting = shop.start("execute", ENDLESS, "--format", "json")
    request_id = shop.until_newest_is("running", not_id=before)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert json.loads(out)["data"] == {"request_id": request_id, "interrupted": True}
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert "Traceback" not in err
    assert shop.newest()["status"] == "running"
    shop.run("request", "cancel", request_id)


def test_a_spinner_then_ctrl_c_then_yes(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    before = shop.newest()["id"]
    person = terminal("execute", ENDLESS)
    person.wait_for("running (")
    request_id = shop.until_newest_is("running", not_id=before)
    person.type(CTRL_C)
    person.wait_for("Stop it in the database, and cancel the request? [y/N]")
    person.type("y\n")
    assert person.end() == 130
    assert "Cancelled." in person.seen
    assert "Traceback" not in person.seen
    assert "\r\x1b[K" in person.seen
    shown = shop.run("request", "show", request_id, "--format", "json").data
    assert shown["status"] == "cancelled"


def test_ctrl_c_then_no(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    before = shop.newest()["id"]
    person = terminal("execute", ENDLESS)
    person.wait_for("running (")
    request_id = shop.until_newest_is("running", not_id=before)
    person.type(CTRL_C)
    person.wait_for("[y/N]")
    person.type("\n")
    assert person.end() == 130
    assert "The request goes on without you" in person.seen
    assert f"dbward request cancel {request_id[:8]}" in person.seen
    asked = terminal("request", "cancel", request_id)
    asked.wait_for("The statement is running. Stop it in the database? [y/N]")
    asked.type("y\n")
    assert asked.end() == 0


def test_ctrl_c_twice(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    before = shop.newest()["id"]
    person = terminal("execute", ENDLESS)
    person.wait_for("running (")
    request_id = shop.until_newest_is("running", not_id=before)
    person.type(CTRL_C)
    person.wait_for("[y/N]")
    person.type(CTRL_C)
    assert person.end() == 130
    assert "Traceback" not in person.seen
    shop.run("request", "cancel", request_id)


def test_a_change_is_asked_about_on_a_terminal(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    sql = "UPDATE items SET price = price + 1 WHERE id = 1"
    person = terminal("execute", sql)
    person.wait_for("Run this on shop/development? [y/N]")
    assert sql in person.seen
    person.type("n\n")
    assert person.end() == 1
    assert "nothing was done" in person.seen
    before = shop.newest()["id"]
    leaving = terminal("execute", sql)
    leaving.wait_for("[y/N]")
    leaving.type(CTRL_C)
    assert leaving.end() == 130
    assert "Traceback" not in leaving.seen
    assert shop.newest()["id"] == before
    with closing(sqlite3.connect(shop.database)) as conn:
        assert conn.execute("SELECT price FROM items WHERE id = 1").fetchone() == (10,)
    read = terminal("execute", "SELECT price FROM items WHERE id = 1")
    assert read.end() == 0
    assert "[y/N]" not in read.seen


def test_waiting_for_an_approval_as_a_person_sees_it(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    person = terminal("execute", "SELECT id, name FROM items WHERE id = 7", "-e", "production", "--wait")
    person.wait_for("Run this on shop/production? [y/N]")
    assert "  Statement: SELECT (execute_select)\r\n" in person.seen
    assert "  Approval: required (role:approver)\r\n" in person.seen
    assert "  SQL: SELECT id, name FROM items WHERE id = 7\r\n" in person.seen
    before = shop.newest()["id"]
    person.type("y\n")
    person.wait_for("waiting for approval (")
    request_id = shop.until_newest_is("pending", not_id=before)
    assert shop.run("request", "approve", request_id, who="bob").status == 0
    assert person.end() == 0
    assert "\r\x1b[Kid  name\r\n──  ──────\r\n 7  item 7\r\n(1 row, " in person.seen.replace("\x1b[K\r", "")


def test_ctrl_c_while_it_waits_for_an_approval(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    before = shop.newest()["id"]
    person = terminal("execute", "SELECT 71", "-e", "production", "--wait")
    person.wait_for("[y/N]")
    person.type("yes\n")
    person.wait_for("waiting for approval (")
    request_id = shop.until_newest_is("pending", not_id=before)
    person.type(CTRL_C)
    person.wait_for("Cancel the request? It is pending. [y/N]")
    person.type("\n")
    assert person.end() == 130
    assert f"The request goes on without you: {request_id}" in person.seen
    assert f"dbward request show {request_id[:8]}, or end it: dbward request cancel {request_id[:8]}" in person.seen
    assert shop.newest()["status"] == "pending"
    shop.run("request", "cancel", request_id)


def test_an_export_shows_how_far_it_is(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    path = shop.home / "many.csv"
    person = terminal("execute", MANY.format(300_000), "--output", "many.csv")
    person.wait_for(" of 300,000 rows (")
    assert list(shop.home.glob("many.csv")) == []
    assert person.end() == 0
    assert "saved to " in person.seen.splitlines()[-1]
    with path.open() as lines:
        assert sum(1 for _ in lines) == 300_001
    assert list(shop.home.glob(".many.csv*")) == []


def test_ctrl_c_while_it_is_saved_leaves_nothing(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    person = terminal("execute", MANY.format(300_000), "--output", "broken.csv")
    person.wait_for(" of 300,000 rows (")
    person.type(CTRL_C)
    assert person.end() == 130
    assert "The request is executed already." in person.seen
    assert f"dbward request result {shop.newest()['id'][:8]}" in person.seen
    assert list(shop.home.glob("*broken.csv*")) == []


def test_what_goes_through_a_pipe_is_neither_cut_to_a_width_nor_drawn(shop: Shop) -> None:
    """As wide as it is, wherever it is started from."""
    sql = "SELECT " + ", ".join(f"'{letter * 50}' AS {letter}" for letter in "abcdef")
    for more in ((), ("--result-format", "csv")):
        ran = shop.run("execute", sql, *more)
        assert max(map(len, ran.out.splitlines())) >= 6 * 50
        assert "\x1b" not in ran.out + ran.err
        assert "\r" not in ran.out + ran.err


def test_a_reader_that_goes_away(shop: Shop) -> None:
    sql = MANY.format(20000)
    command = subprocess.Popen(
        [*DBWARD, "execute", sql, "--result-format", "csv"],
        env=shop.env(),
        cwd=shop.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"x,t\n"
    command.stdout.close()
    assert command.stderr is not None
    err = command.stderr.read()
    command.stderr.close()
    command.wait(60)
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err


def test_a_big_result_does_not_fill_the_memory(shop: Shop, tmp_path: Path) -> None:
    """What it takes above a small result is far less than the result's own size."""
    measured = (
        "import re, sys; from dbward.cli.env import process_env; from dbward.cli.main import main; "
        "status = main(sys.argv[2:], process_env()); "
        # Not getrusage, whose peak begins with that of the process that started this one.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read()); "
        "open(sys.argv[1], 'w').write(peak[1]); sys.exit(status)"
    )

    def peak_kb(rows: int) -> int:
        path, rss = tmp_path / f"{rows}.csv", tmp_path / f"{rows}.rss"
        argv = [sys.executable, "-c", measured, str(rss), "execute", MANY.format(rows), "--output", str(path)]
        ran = subprocess.run(argv, env=shop.env(), cwd=shop.home, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        with path.open() as lines:
            assert sum(1 for _ in lines) == rows + 1
        return int(rss.read_text())

    assert peak_kb(400_000) - peak_kb(10) < 24_000


def test_many_at_once(shop: Shop) -> None:
    """Results find the person who asked."""
    wrong: list[str] = []

    def ask(number: int) -> None:
        ran = shop.run("execute", f"SELECT {number} AS n", "--result-format", "csv")
        if (ran.status, ran.out) != (0, f"n\n{number}\n"):
            wrong.append(f"{number}: {ran}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_migration_on_a_terminal(shop: Shop, terminal: Callable[..., OnTerminal]) -> None:
    directory = shop.home / "migrations"
    directory.mkdir()
    (directory / "1_notes.sql").write_text("-- migrate:up\nCREATE TABLE notes (id INTEGER);\n")
    person = terminal("migrate", "up")
    person.wait_for("Apply 1 migration on shop/development? [y/N]")
    assert "1_notes (cannot be undone)\r\n    CREATE TABLE notes (id INTEGER);\r\n" in person.seen
    person.type("y\n")
    assert person.end() == 0
    assert "1        notes  applied  " in person.seen

    (directory / "2_endless.sql").write_text(f"-- migrate:up\nCREATE TABLE endless AS {ENDLESS};\n")
    before = shop.newest()["id"]
    waiting = terminal("migrate", "up", "--yes")
    waiting.wait_for("running (")
    request_id = shop.until_newest_is("running", not_id=before)
    waiting.type(CTRL_C)
    assert waiting.end() == 130
    assert f"The request goes on without you: {request_id}" in waiting.seen
    shop.run("request", "cancel", request_id)
    shop.until_newest_is("cancelled")
    piped = shop.run("migrate", "status", "--format", "json")
    assert [(one["version"], one["state"]) for one in piped.data["migrations"]] == [("1", "applied"), ("2", "pending")]
