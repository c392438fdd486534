"""The program in-process against the real application, with people who have tokens of their own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask import Flask

from dbward import ids
from dbward.cli.env import Env
from dbward.cli.main import main
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import bootstrap
from dbward.settings.server import load_server
from web.app import create_app

PEOPLE = ("alice", "bob", "carol", "dave", "olga")
POLICY = """
[auth]
[[auth.groups]]
name = "dba"
roles = ["approver"]
[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${T_ALICE}"
[[auth.users]]
id = "bob"
roles = ["approver"]
groups = ["dba"]
token = "${T_BOB}"
[[auth.users]]
id = "carol"
roles = ["approver"]
token = "${T_CAROL}"
[[auth.roles]]
name = "sender"
permissions = ["request.query", "request.dml", "request.view"]
[[auth.users]]
id = "dave"
roles = ["sender"]
token = "${T_DAVE}"
[[auth.users]]
id = "olga"
roles = ["operator"]
token = "${T_OLGA}"

[[databases]]
name = "app"
environments = ["development", "production"]

[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver" }]
[[workflows.steps]]
mode = "any"
approvers = [{ group = "dba" }, { role = "operator" }]

[[execution_policies]]
environment = "production"
max_rows = 5000

[[result_policies]]
environment = "production"
delivery_mode = "stream"
access = ["group:dba"]

[[webhooks]]
id = "oncall"
url = "https://oncall.example.com/in?key=hidden"
events = ["request.created"]
"""
"""Production needs an approver, then somebody of the group dba or an operator."""


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(slots=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, self.out
        envelope: dict[str, Any] = json.loads(self.out)
        assert envelope["ok"] is (self.status == 0)
        return envelope

    @property
    def data(self) -> Any:
        return self.json["data"]


@dataclass(slots=True)
class Person:
    """Runs commands as one person, who has said yes to everything. `answers` makes standard input a terminal that holds
    them, and has the person asked.
    """

    cwd: Path
    variables: dict[str, str]
    transport: httpx2.BaseTransport | None = None

    def __call__(self, *argv: str, stdin: str = "", answers: str | None = None, **env: str) -> Ran:
        out, err = io.StringIO(), Terminal() if answers is not None else io.StringIO()
        source = Terminal(answers) if answers is not None else io.StringIO(stdin)
        variables = {"DBWARD_YES": "1" if answers is None else "", **self.variables, **env}
        status = main(argv, Env(source, out, err, variables, self.cwd, self.transport))
        return Ran(status, out.getvalue(), err.getvalue())


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Runtime]:
    path = tmp_path / "server.toml"
    path.write_text(f"state_dir = {json.dumps(str(tmp_path / 'state'))}\n{POLICY}")
    settings = load_server(path, {f"T_{name.upper()}": ids.new_token() for name in PEOPLE})
    bootstrap.prepare(settings)
    rt = open_runtime(settings)
    yield rt
    rt.close()


@pytest.fixture
def app(rt: Runtime) -> Flask:
    return create_app(Current(rt))


@pytest.fixture
def person(app: Flask, rt: Runtime, tmp_path: Path) -> Callable[[str], Person]:
    """`person("alice")("request", "list")` runs `dbward request list` as alice."""
    tokens = {user.id: user.token.reveal() for user in rt.settings.users if user.token is not None}
    tokens["admin"] = (rt.settings.state_dir / bootstrap.ADMIN_TOKEN).read_text()
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def become(name: str) -> Person:
        variables = {
            "HOME": str(tmp_path / "home"),
            "DBWARD_SERVER_URL": "http://dbward.internal",
            "DBWARD_TOKEN": tokens[name],
            "DBWARD_DATABASE": "app",
        }
        return Person(cwd, variables, httpx2.WSGITransport(app=app))

    return become


@pytest.fixture
def alice(person: Callable[[str], Person]) -> Person:
    return person("alice")


@pytest.fixture
def bob(person: Callable[[str], Person]) -> Person:
    return person("bob")


@pytest.fixture
def olga(person: Callable[[str], Person]) -> Person:
    return person("olga")


@pytest.fixture
def offline(tmp_path: Path) -> Person:
    """Somebody with no configuration at all."""
    return Person(tmp_path, {"HOME": str(tmp_path)})
