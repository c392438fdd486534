"""Migrations by the program as a process, with a real server, a real agent and each kind of database."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import services
from tests.support.processes import DBWARD, Farm, Server

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
[[sql_review]]
environment = "story"
drop_table = "warn"
"""
"""An environment for each test, so that none sees what another has applied."""


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
class Place:
    """A directory with migrations, and the program run in it."""

    server: Server
    cwd: Path
    database: str
    environment: str

    def __call__(self, *argv: str, who: str = "alice", **env: str) -> Ran:
        made = subprocess.run(
            [*DBWARD, *argv],
            env=self.env(who, **env),
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(made.returncode, made.stdout, made.stderr)

    def env(self, who: str, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.cwd),
            "DBWARD_SERVER_URL": self.server.url,
            "DBWARD_TOKEN": TOKENS[who],
            "DBWARD_DATABASE": self.database,
            "DBWARD_ENV": self.environment,
            **more,
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
    assert place("migrate", "status", "--exit-code", "--format", "quiet").error["code"] == "migration.differs"

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
    assert (stuck.status, stuck.error["code"]) == (1, "migration.irreversible")
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
