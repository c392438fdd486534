"""A real runtime on each kind of state store, the application over it, and callers with tokens of their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from dbward import ids
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import bootstrap
from dbward.settings.server import ServerSettings, load_server
from tests.conftest import State
from tests.support import answers
from web.app import create_app

POLICY = """
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
approvers = [{ role = "approver", min = 1 }]

[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${T_ALICE}"

[[auth.users]]
id = "bob"
roles = ["approver"]
token = "${T_BOB}"

[[auth.users]]
id = "olga"
roles = ["operator"]
token = "${T_OLGA}"

[result_storage]
backend = "local"
"""

DEVELOPMENT = {"database": "app", "environment": "development", "detail": "SELECT 1"}
PRODUCTION = {"database": "app", "environment": "production", "detail": "SELECT 1"}


@dataclass(frozen=True, slots=True)
class Caller:
    """One person, or the agent, calling the application in-process."""

    app: Flask
    token: str | None

    def __call__(self, method: str, path: str, body: Any = None, **kwargs: Any) -> TestResponse:
        headers = dict(kwargs.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None:
            kwargs |= {"data": json.dumps(body), "content_type": "application/json"}
        answer = self.app.test_client().open(path, method=method, headers=headers, **kwargs)
        answers.check(self.app, answer)
        return answer

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self("GET", path, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> TestResponse:
        return self("POST", path, body, **kwargs)


@pytest.fixture
def settings(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    for name in ("T_ALICE", "T_BOB", "T_OLGA"):
        monkeypatch.setenv(name, ids.new_token())
    path = tmp_path / "server.toml"
    home = json.dumps(str(tmp_path / "state"))
    path.write_text(f"state_dir = {home}\n[state]\nurl = {json.dumps(state.url)}\n{POLICY}")
    return load_server(path)


@pytest.fixture
def rt(settings: ServerSettings) -> Iterator[Runtime]:
    bootstrap.prepare(settings)
    rt = open_runtime(settings)
    yield rt
    rt.close()


@pytest.fixture
def app(rt: Runtime) -> Flask:
    return create_app(Current(rt))


@pytest.fixture
def caller(app: Flask, rt: Runtime) -> Callable[[str | None], Caller]:
    """`caller("alice")`, `caller("agent")`, `caller(None)` for nobody."""
    tokens = {user.id: user.token.reveal() for user in rt.settings.users if user.token is not None}
    tokens["agent"] = (rt.settings.state_dir / bootstrap.AGENT_TOKEN).read_text()
    tokens["admin"] = (rt.settings.state_dir / bootstrap.ADMIN_TOKEN).read_text()
    return lambda who: Caller(app, tokens[who] if who is not None else None)


@pytest.fixture
def alice(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("alice")


@pytest.fixture
def bob(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("bob")


@pytest.fixture
def agent(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("agent")


@pytest.fixture
def nobody(caller: Callable[[str | None], Caller]) -> Caller:
    return caller(None)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Calls that wait are made beside the test."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def held(rt: Runtime, calls: int) -> None:
    """Return once so many calls are waiting."""
    done = threading.Event()
    while rt.polls.taken < calls:
        done.wait(0.01)
