"""Migrations by the program, with a real server, a real agent and each kind of database."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Person, Ran
from tests.support import services
from tests.support.processes import Farm, Server

pytestmark = pytest.mark.e2e

ENGINES = ("lite", "pg", "maria")
TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("alice", "bob", "rita")}
CONFIG = """
[auth]
[[auth.roles]]
name = "reader"
permissions = ["schema.read", "request.query", "request.view"]
[[auth.users]]
id = "alice"
roles = ["requester", "operator"]
token = "${T_ALICE}"
[[auth.users]]
id = "bob"
roles = ["approver"]
token = "${T_BOB}"
[[auth.users]]
id = "rita"
roles = ["reader"]
token = "${T_RITA}"
[[databases]]
name = "lite"
environments = ["story", "broken", "production", "changing"]
[[databases]]
name = "pg"
environments = ["story", "broken", "racing"]
[[databases]]
name = "maria"
environments = ["story", "broken"]
[[workflows]]
environment = "*"
[workflows.auto_approve]
mode = "always"
[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver" }]
[[execution_policies]]
environment = "production"
max_executions = 2
[[sql_review]]
environment = "story"
drop_table = "warn"
"""
"""An environment for each test, so that none sees what another has applied."""


@dataclass
class Place:
    """A directory with migrations, and the program run in it: in this process, but over the network."""

    server: Server
    cwd: Path
    database: str
    environment: str

    def __call__(self, *argv: str, who: str = "alice", answers: str | None = None) -> Ran:
        return Person(self.cwd, self.env(who))(*argv, answers=answers)

    def env(self, who: str) -> dict[str, str]:
        return {
            "HOME": str(self.cwd),
            "DBWARD_SERVER_URL": self.server.url,
            "DBWARD_TOKEN": TOKENS[who],
            "DBWARD_DATABASE": self.database,
            "DBWARD_ENV": self.environment,
        }

    def write(self, version: str, name: str, up: str, down: str = "", options: str = "") -> Path:
        directory = self.cwd / "migrations"
        directory.mkdir(exist_ok=True)
        path = directory / f"{version}_{name}.sql"
        path.write_text(f"-- migrate:up{options}\n{up}\n" + (f"-- migrate:down\n{down}\n" if down else ""))
        return path

    def states(self) -> list[tuple[str, str]]:
        listed = self("migrate", "status", "--format", "json", who="rita").data["migrations"]
        return [(one["version"], one["state"]) for one in listed]

    def request(self, request_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self("request", "show", request_id, "--format", "json").data
        return found

    def outcomes(self, ran: Ran) -> list[tuple[str, str]]:
        return [(one["version"], one["outcome"]) for one in ran.data["result_data"]["migrations"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, and an agent of all the databases."""
    directory = tmp_path_factory.mktemp("migrating")
    farm = Farm(directory)
    with ExitStack() as stack:
        stack.callback(farm.close)
        urls = {}
        for name in ("story", "broken", "production", "changing"):
            (directory / f"{name}.db").touch()
            urls["lite", name] = f"sqlite:///{directory / f'{name}.db'}"
        for name in ("story", "broken", "racing"):
            urls["pg", name] = stack.enter_context(services.fresh_postgres())
        for name in ("story", "broken"):
            urls["maria", name] = stack.enter_context(services.fresh_mariadb())
        server = farm.server(config=CONFIG, env={f"T_{name.upper()}": token for name, token in TOKENS.items()})
        farm.agent(server, urls)
        yield server


@pytest.mark.parametrize("engine", ENGINES)
def test_from_nothing_and_back(server: Server, tmp_path: Path, engine: str) -> None:
    place = Place(server, tmp_path, engine, "story")
    place.write("9", "orders", "CREATE TABLE orders (id INTEGER PRIMARY KEY);", "DROP TABLE orders;")
    place.write("10", "notes", "CREATE TABLE notes (id INTEGER);\nINSERT INTO notes VALUES (1);", "DROP TABLE notes;")
    place.write("11", "final", "INSERT INTO notes VALUES (2);")
    pending = place("migrate", "status", who="rita")
    assert (pending.status, pending.err) == (0, "(3 pending)\n💡 apply what is pending: dbward migrate up\n")
    assert place("migrate", "status", "--exit-code", "--format", "quiet").json["error"]["code"] == "migration.differs"

    dry = place("migrate", "up", "--dry-run", "--to", "10")
    assert (dry.status, "DROP TABLE" in dry.out) == (0, False)
    assert dry.out.startswith("  9_orders\n    CREATE TABLE orders (id INTEGER PRIMARY KEY);\n  10_notes\n")
    first = place("migrate", "up", "--count", "1", "--format", "json")
    assert (first.status, first.err) == (0, "")
    assert place.outcomes(first) == [("9", "applied")]
    assert place.states() == [("9", "applied"), ("10", "pending"), ("11", "pending")]
    rest = place("migrate", "up")
    assert rest.status == 0
    assert [line.split()[:3] for line in rest.out.splitlines()[2:]] == [
        ["10", "notes", "applied"],
        ["11", "final", "applied"],
    ]
    assert f"Apply 2 migrations on {engine}/story: 10_notes, 11_final\n" in rest.err
    nothing = place("migrate", "up", "--format", "json")
    assert (nothing.status, nothing.data["request_id"]) == (0, None)
    assert place("migrate", "status", "--exit-code").status == 0

    stuck = place("migrate", "down", "--count", "2", "--format", "json")
    assert (stuck.status, stuck.json["error"]["code"]) == (1, "migration.irreversible")
    assert place.states() == [("9", "applied"), ("10", "applied"), ("11", "applied")]
    repair = ("migrate", "repair", "--action", "remove", "--version", "11_final")
    assert place(*repair).status == 1
    mended = place(*repair, "--emergency", "--reason", "it only was a row", "--format", "json")
    assert place.outcomes(mended) == [("11", "removed")]
    back = place("migrate", "down", "--to", "9", "--format", "json")
    assert back.status == 0, back.out
    assert back.data["result_data"]["reverted"] == ["10"]
    assert place.states() == [("9", "applied"), ("10", "pending"), ("11", "pending")]
    marked = place("migrate", "repair", "--action", "mark-applied", "--version", "10", "--emergency", "--reason", "x")
    assert marked.status == 0
    assert place.states() == [("9", "applied"), ("10", "applied"), ("11", "pending")]
    again = place("migrate", "repair", "--action", "mark-applied", "--version", "10", "--emergency", "--reason", "x")
    assert (again.status, again.err) == (0, "10_notes is recorded as applied; nothing was changed.\n")


def test_approved_is_what_was_shown_and_what_runs(server: Server, tmp_path: Path) -> None:
    place = Place(server, tmp_path, "lite", "production")
    place.write("1", "a", "-- the first\nCREATE TABLE a (i INTEGER);\nINSERT INTO a VALUES (1);", "DROP TABLE a;")
    edited = place.write("2", "b", "CREATE TABLE b (i INTEGER);\nDELETE FROM a WHERE i = 2;")
    asked = place("migrate", "up", "--format", "json", "--reason", "release 7")
    assert (asked.status, asked.json["error"]["code"]) == (2, "pending_approval")
    request_id = asked.data["request_id"]
    edited.write_text("-- migrate:up\nCREATE TABLE evil (i INTEGER);\n")
    place.write("3", "c", "CREATE TABLE c (i INTEGER);")

    shown = place("request", "show", request_id, who="bob").out
    assert "  Detail: apply 2 migrations, in this order\n    1_a\n" in shown
    assert "      2 | -- the first\n      3 | CREATE TABLE a (i INTEGER);\n" in shown
    assert "    2_b (cannot be undone)\n" in shown
    assert "evil" not in shown
    assert f"sha256 {place.request(request_id)['migrations'][0]['checksum']}" in shown
    assert "1_a and 1 more" in place("request", "list", who="bob").out
    assert place("request", "approve", request_id, who="bob").status == 0
    ran = place("request", "resume", request_id, "--format", "json")
    assert place.outcomes(ran) == [("1", "applied"), ("2", "applied")]
    assert place.states() == [("1", "applied"), ("2", "changed"), ("3", "pending")]
    with closing(sqlite3.connect(server.farm.dir / "production.db")) as conn:
        tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"a", "b"} <= tables
    assert not tables & {"evil", "c"}

    assert [one["outcome"] for one in place.request(request_id)["migrations"]] == ["applied", "applied"]
    assert "1_a: applied in " in place("request", "show", request_id, who="bob").out
    assert place.outcomes(place("request", "result", request_id, "--format", "json")) == place.outcomes(ran)
    again = place("request", "resume", request_id, "--format", "json")
    assert place.outcomes(again) == [("1", "skipped"), ("2", "skipped")]
    refused = place("migrate", "up", "--format", "json")
    assert (refused.status, refused.json["error"]["code"]) == (1, "migration.changed")
    waiting = place("migrate", "up", "--ignore-changed", "--format", "json")
    assert (waiting.status, waiting.json["error"]["code"]) == (2, "pending_approval")
    another = place("migrate", "up", "--ignore-changed", "--timeout", "0", "--format", "json")
    assert another.json["warnings"] == [f"request {waiting.data['request_id'][:8]} of alice is pending already: 3_c"]


@pytest.mark.parametrize("engine", ENGINES)
def test_one_in_the_middle_fails(server: Server, tmp_path: Path, engine: str) -> None:
    place = Place(server, tmp_path, engine, "broken")
    place.write("1", "fine", "CREATE TABLE fine (i INTEGER);")
    place.write("2", "wrong", "INSERT INTO fine VALUES (1);\nINSERT INTO no_such_table VALUES (1);")
    place.write("3", "never", "CREATE TABLE never (i INTEGER);")
    ran = place("migrate", "up")
    assert ran.status == 1
    outcomes = [line.split()[:3] for line in ran.out.splitlines()[2:]]
    assert outcomes == [["1", "fine", "applied"], ["2", "wrong", "failed"], ["3", "never", "not"]]
    assert "Error: 2_wrong, statement 2 of 2: " in ran.err
    assert "no_such_table" in ran.err
    assert place.states() == [("1", "applied"), ("2", "pending"), ("3", "pending")]
    place.write("2", "wrong", "INSERT INTO fine VALUES (1);")
    mended = place("migrate", "up", "--format", "json")
    assert mended.data["result_data"]["applied"] == ["2", "3"]


def test_two_at_once_apply_each_migration_once(server: Server, tmp_path: Path) -> None:
    place = Place(server, tmp_path, "pg", "racing")
    place.write("1", "slow", "CREATE TABLE seen (i INTEGER);\nSELECT pg_sleep(0.5);\nINSERT INTO seen VALUES (1);")
    place.write("2", "more", "INSERT INTO seen VALUES (2);")
    with ThreadPoolExecutor(3) as pool:
        ran = list(pool.map(lambda _: place("migrate", "up", "--format", "json"), range(3)))
    assert [one.status for one in ran] == [0, 0, 0], [one.out for one in ran]
    told = [outcome for one in ran for outcome in place.outcomes(one)]
    assert sorted(outcome for outcome in told if outcome[1] == "applied") == [("1", "applied"), ("2", "applied")]
    assert {outcome for _, outcome in told} <= {"applied", "skipped"}
    count = place("execute", "SELECT count(*) AS n FROM seen", "--format", "json")
    assert count.data["result_data"]["rows"] == [{"n": 2}]


def test_asking_before_it_runs(server: Server, tmp_path: Path) -> None:
    place = Place(server, tmp_path, "lite", "changing")
    place.write("1", "a", "CREATE TABLE a (i INTEGER);")
    unseen = Person(place.cwd, {**place.env("alice"), "DBWARD_YES": ""})("migrate", "up", "--format", "json")
    assert (unseen.status, unseen.json["error"]["code"]) == (1, "confirmation_required")
    refused = place("migrate", "up", answers="n\n")
    assert (refused.status, refused.out) == (1, "")
    assert "  1_a (cannot be undone)\n    CREATE TABLE a (i INTEGER);\nApply 1 migration on lite/changing? [y/N] " in (
        refused.err
    )
    assert place.states() == [("1", "pending")]
    urgent = place("migrate", "up", "--emergency", "--reason", "now", answers="y\n")
    assert "Apply 1 migration WITHOUT APPROVAL on lite/changing? [y/N] " in urgent.err
    assert (urgent.status, place.states()) == (0, [("1", "applied")])
