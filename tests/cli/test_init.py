"""`dbward init`: what it writes, what it leaves alone, and that what it writes starts as it is."""

from __future__ import annotations

import sqlite3
import stat
import tomllib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dbward.cli.presets import PRESETS
from dbward.settings.agent import load_agent
from dbward.settings.client import Flags, load_client
from dbward.settings.server import load_server
from tests.cli.conftest import Person, Ran
from tests.support.processes import DBWARD, Farm, status_of
from tests.support.services import free_port

TEAM = ["dbward.toml", "server.toml", "agent.toml"]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """Somebody new, in the directory of a project."""
    project = tmp_path / "project"
    project.mkdir()
    return Person(project, {"HOME": str(tmp_path / "home")})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def global_file(person: Person) -> Path:
    return Path(person.variables["HOME"]) / ".config/dbward/config.toml"


def test_a_project_and_whoever_works_on_it(person: Person) -> None:
    ran = person("init", "--non-interactive")
    mine, project = global_file(person), person.cwd / "dbward.toml"
    assert (ran.status, ran.out) == (0, f"{mine}\n{project}\n")
    assert (mode(mine), mode(mine.parent), mode(project)) == (0o600, 0o700, 0o644)
    settings = load_client({**person.variables, "DBWARD_TOKEN": "x"}, person.cwd)
    assert (settings.url, settings.database(), settings.environment()) == (
        "http://localhost:3000",
        "app",
        "development",
    )
    assert settings.warnings == ()


def test_answers_are_given_or_asked(person: Person) -> None:
    asked = person("init", answers="https://dbward.example.com/\nshop\n")
    assert asked.status == 0
    assert "Where is the server, or where will it be? [http://localhost:3000] " in asked.err
    settings = load_client({**person.variables, "DBWARD_TOKEN": "x"}, person.cwd)
    assert (settings.url, settings.database()) == ("https://dbward.example.com", "shop")
    given = person("init", "--server-url", "http://one.internal", "--database", "two", "--force", answers="")
    assert (given.status, "[" in given.err) == (0, False)
    assert load_client(person.variables, person.cwd).url == "http://one.internal"
    enter = person("init", "--force", answers="\n\n")
    assert enter.status == 0
    assert load_client(person.variables, person.cwd).url == "http://localhost:3000"


def test_where_nobody_can_be_asked(person: Person) -> None:
    for extra in ([], ["--format", "json"], ["--format", "quiet"], ["--server-url", "http://x"]):
        assert person("init", *extra).status == 2
    assert person("init", "--format", "json").json["error"]["code"] == "usage"
    assert list(person.cwd.iterdir()) == []
    assert person("init", "--format", "json", "--non-interactive").data["preset"] is None


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--server-url", "ftp://x"], "init.invalid"),
        (["--server-url", "https://ann:pw@x"], "init.invalid"),
        (["--database", "No Name"], "init.invalid"),
        (["--database", 'x"]\n[server]\n'], "init.invalid"),
        (["--preset", "big-team"], "config_error"),
        (["--output-dir", "/proc/nowhere"], "init.unwritable"),
        (["--preset", "solo", "--config", "x.toml"], "usage"),
        (["--output-dir", "x", "--config", "x.toml"], "usage"),
    ],
)
def test_what_is_refused(person: Person, argv: list[str], code: str) -> None:
    ran = person("init", "--non-interactive", "--format", "json", *argv)
    assert ran.json["error"]["code"] == code
    assert list(person.cwd.iterdir()) == []
    if code == "config_error":
        assert "small-team" in ran.json["error"]["hint"]


def test_nothing_is_overwritten(person: Person) -> None:
    (person.cwd / "agent.toml").write_text("mine")
    taken = person("init", "--preset", "small-team", "--non-interactive", "--format", "json")
    assert taken.json["error"]["code"] == "init.exists"
    assert str(person.cwd / "agent.toml") in taken.json["error"]["message"]
    assert [path.name for path in person.cwd.iterdir()] == ["agent.toml"]
    assert person("init", "--preset", "small-team", "--non-interactive", "--force").status == 0
    assert sorted(path.name for path in person.cwd.iterdir()) == sorted([*TEAM, "agent.toml.old"])
    assert (person.cwd / "agent.toml.old").read_text() == "mine"
    assert load_server(person.cwd / "server.toml", {}).policy.targets


def test_a_global_file_stays_as_it_is(person: Person) -> None:
    mine = global_file(person)
    mine.parent.mkdir(parents=True)
    mine.write_text('[server]\ntoken = "kept"\n')
    ran = person("init", "--non-interactive", "--format", "json")
    assert ran.data["files_kept"] == [str(mine)]
    assert ran.data["files_created"] == [str(person.cwd / "dbward.toml")]
    assert "kept" in mine.read_text()
    again = person("init", "--non-interactive", "--format", "json")
    assert again.json["error"]["code"] == "init.exists"
    assert person("init", "--non-interactive", "--force").status == 0
    assert person("init", "--non-interactive", "--force").status == 0
    assert "kept" in mine.with_name("config.toml.old").read_text()
    assert "kept" not in mine.with_name("config.toml.old-2").read_text()


def test_all_in_one_file(person: Person) -> None:
    for path, argv, env in (
        ("one.toml", ["--config", "one.toml"], {}),
        ("two.toml", [], {"DBWARD_CONFIG": "two.toml"}),
    ):
        assert person("init", "--non-interactive", *argv, **env).status == 0
        assert load_client(person.variables, person.cwd, Flags(config=Path(path))).database() == "app"
        assert mode(person.cwd / path) == 0o600
    assert not global_file(person).exists()


@pytest.mark.parametrize("argv", [[], ["--preset", "small-team"], ["--config", "x.toml"]])
def test_a_dry_run_writes_nothing(person: Person, argv: list[str]) -> None:
    ran = person("init", "--dry-run", "--non-interactive", *argv)
    assert ran.status == 0
    assert "[server]" in ran.out
    assert list(person.cwd.iterdir()) == []
    assert not global_file(person).exists()
    data = person("init", "--dry-run", "--non-interactive", "--format", "json", *argv).data
    assert (data["files_created"], data["dry_run"]) == ([], True)
    assert all("\n" in file["text"] for file in data["would_create"])


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://localhost:3000", ("127.0.0.1", 3000)),
        ("http://[::1]:8080", ("::1", 8080)),
        ("http://dbward.internal:3100", ("0.0.0.0", 3100)),
        ("http://dbward.internal", ("0.0.0.0", 80)),
        ("https://dbward.example.com", ("127.0.0.1", 3000)),
    ],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_files_of_a_preset(person: Person, preset: str, url: str, listen: tuple[str, int]) -> None:
    ran = person(
        "init", "--preset", preset, "--non-interactive", "--server-url", url, "--database", "shop", "--format", "json"
    )
    assert ran.data == {
        "files_created": [str(person.cwd / name) for name in TEAM],
        "files_kept": [],
        "preset": preset,
        "dry_run": False,
    }
    assert [mode(person.cwd / name) for name in TEAM] == [0o644, 0o600, 0o600]
    server = load_server(person.cwd / "server.toml", {})
    assert (server.listen, server.warnings) == (listen, ())
    assert server.state_dir == person.cwd / "state"
    env = {name: f"sqlite:////tmp/{name}" for name in ("DATABASE_URL_STAGING", "DATABASE_URL_PRODUCTION")}
    agent = load_agent(person.cwd / "agent.toml", {**env, "DBWARD_AGENT_TOKEN": "x"})
    assert (agent.server_url, set(agent.databases)) == (url, set(server.policy.targets))
    client = load_client({**person.variables, "DBWARD_TOKEN": "x"}, person.cwd)
    assert (client.url, client.database(), client.warnings) == (url, "shop", ())


# --- what each preset promises ----------------------------------------------------------------------------------------


class Team:
    """A running installation made of nothing but the files of a preset, by the steps that `init` prints."""

    def __init__(self, farm: Farm, preset: str) -> None:
        self.farm = farm
        self.dir = farm.dir / preset
        self.dir.mkdir()
        self.tokens: dict[str, str] = {}
        url = f"http://localhost:{free_port()}"
        assert self.run(None, "init", "--preset", preset, "--non-interactive", "--server-url", url).status == 0
        server = farm.spawn("server", [*DBWARD, "server", "start", "--config", str(self.dir / "server.toml")])
        farm.until(lambda: status_of(f"{url}/ready") == 200, "the server is ready", server)
        database = self.dir / "shop.db"
        with closing(sqlite3.connect(database)) as conn, conn:
            conn.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, price INTEGER)")
            conn.execute("INSERT INTO items VALUES (1, 10)")
            conn.execute("CREATE TABLE spare (n)")
        names = [f"DATABASE_URL_{name}" for name in ("DEV", "STAGING", "PRODUCTION")]
        urls = dict.fromkeys(names, f"sqlite:///{database}")
        self.tokens["admin"] = (self.dir / "state/admin-token").read_text()
        agent_env = {**urls, "DBWARD_AGENT_TOKEN": (self.dir / "state/agent-token").read_text()}
        probes = self.dir / "probes"
        probes.mkdir()
        path = self.dir / "agent.toml"
        path.write_text(f'probe_dir = "{probes}"\n{path.read_text()}')  # the usual place is the whole machine's
        agent = farm.spawn("agent", [*DBWARD, "agent", "--config", str(path)], env=agent_env)
        farm.until((probes / "dbward-agent-ready").exists, "the agent is ready", agent)

    def run(self, who: str | None, *argv: str) -> Ran:
        signed_in = {"DBWARD_TOKEN": self.tokens[who]} if who else {}
        return Person(self.dir, {"HOME": str(self.dir), **signed_in})(*argv, "--format", "json")

    def add(self, name: str, *roles: str) -> None:
        given = [word for role in roles for word in ("--role", role)]
        made = self.run(None, "server", "user", "add", name, *given, "--server-config", "server.toml")
        self.tokens[name] = made.data["token"]

    def execute(self, who: str, environment: str, sql: str, *extra: str) -> Ran:
        return self.run(who, "execute", sql, "-e", environment, "--yes", *extra)

    def price(self) -> Any:
        with closing(sqlite3.connect(self.dir / "shop.db")) as conn:
            return conn.execute("SELECT price FROM items").fetchone()[0]


CHANGE = "UPDATE items SET price = price + 1 WHERE id = 1"


def _approved_by(team: Team, environment: str, approvers: Sequence[str], *reason: str) -> None:
    """Alice asks, and it runs when all of `approvers` have said yes, in that order, and not before."""
    before = team.price()
    asked = team.execute("alice", environment, CHANGE, *reason)
    assert asked.json["error"]["code"] == "pending_approval"
    request = asked.json["data"]["request_id"]
    for who in approvers:
        assert team.run("alice", "request", "resume", request).status == 1
        assert team.run("alice", "request", "approve", request).status == 1
        assert team.run(who, "request", "approve", request).status == 0
    assert team.run("alice", "request", "resume", request).status == 0
    assert team.price() == before + 1


@pytest.fixture
def running(farm: Farm, request: pytest.FixtureRequest) -> Team:
    return Team(farm, request.param)


@pytest.mark.e2e
@pytest.mark.parametrize("running", ["small-team"], indirect=True)
def test_a_small_team(running: Team) -> None:
    running.add("alice", "requester")
    running.add("bob", "requester", "approver")
    assert running.execute("alice", "development", CHANGE).data["rows_affected"] == 1
    assert running.execute("alice", "staging", CHANGE).status == 0
    assert running.execute("alice", "staging", "DROP TABLE spare").json["error"]["code"] == "pending_approval"
    assert running.execute("alice", "production", "SELECT 1").status == 1  # without a reason
    _approved_by(running, "production", ["bob"], "--reason", "the price is wrong")
    blocked = running.execute("alice", "development", "DELETE FROM items")
    assert (blocked.status, running.price()) == (1, 13)


@pytest.mark.e2e
@pytest.mark.parametrize("running", ["two-approvals"], indirect=True)
def test_two_approvals(running: Team) -> None:
    running.add("alice", "requester")
    running.add("bob", "requester", "approver")
    _approved_by(running, "staging", ["bob"])
    _approved_by(running, "production", ["bob", "admin"], "--reason", "the price is wrong")
    assert running.execute("alice", "production", "DROP TABLE items", "--reason", "away").status == 1


@pytest.mark.e2e
@pytest.mark.parametrize("running", ["solo"], indirect=True)
def test_alone(running: Team) -> None:
    """The first token is all there is."""
    assert running.execute("admin", "production", "SELECT price FROM items").status == 0
    asked = running.execute("admin", "production", CHANGE, "--reason", "the price is wrong")
    assert asked.json["error"]["code"] == "pending_approval"
    request = asked.json["data"]["request_id"]
    assert running.run("admin", "request", "approve", request).status == 0
    assert running.run("admin", "request", "resume", request).status == 0
    assert running.price() == 11


def test_a_team_in_a_directory_of_its_own(person: Person) -> None:
    there = replace(person, variables={**person.variables, "DBWARD_CONFIG": "/elsewhere.toml"})
    assert there("init", "--preset", "solo", "--non-interactive", "--output-dir", "ops/dbward").status == 0
    assert sorted(path.name for path in (person.cwd / "ops/dbward").iterdir()) == sorted(TEAM)
    assert tomllib.loads((person.cwd / "ops/dbward/dbward.toml").read_text())["default_database"] == "app"
