"""Schemathesis reads `/api/openapi.json` of a live server and calls every route in every way it can, as each role.

No 5xx but the 503 that says when to come back, no undocumented status, no answer that is not what the document says.
Everything submitted runs at once, through a real agent: calls that wait for a request or its result are answered soon.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbward.domain.roles import BUILTIN_ROLES
from dbward.ids import new_token
from tests.support.processes import Farm, Server, call

pytestmark = pytest.mark.e2e

PEOPLE = [name for name in BUILTIN_ROLES if name != "agent-default"]
TOKENS = {name: new_token() for name in PEOPLE}
CONFIG = (
    "[broker]\nmax_wait_secs = 1\n"
    "[limits]\nreads_per_minute = 0\nwrites_per_minute = 0\nfailed_sign_ins_per_minute = 1000000\n"
    '[[databases]]\nname = "app"\nenvironments = ["development", "production"]\n'
    '[[workflows]]\n[workflows.auto_approve]\nmode = "always"\n'
    + "".join(f'\n[[auth.users]]\nid = "{name}-1"\nroles = ["{name}"]\ntoken = "${{T_{name}}}"\n' for name in PEOPLE)
)
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("response_headers_conformance", "unsupported_method", "allow_header_conformance", "negative_data_rejection"),
    *("ignored_auth",),
)


SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 503]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    farm = Farm(tmp_path_factory.mktemp("schemathesis"))
    server = farm.server(config=CONFIG, env={f"T_{name}": token for name, token in TOKENS.items()})
    target = f"sqlite:///{farm.dir / 'target.db'}"
    sqlite3.connect(farm.dir / "target.db").close()
    farm.agent(server, {("app", "development"): target, ("app", "production"): target})
    yield server
    farm.close()


@pytest.fixture(scope="module")
def agent_token(server: Server) -> str:
    """Of an agent of its own: the one that works must not be spoken for."""
    wanted = {"subject_id": "hunter", "subject_type": "agent"}
    status, made = call("POST", f"{server.url}/api/tokens", server.admin_token, wanted)
    assert status == 201
    token: str = made["token"]
    return token


def test_the_roles_are_those_that_are_built_in():
    assert sorted(PEOPLE) == ["admin", "approver", "operator", "requester"]


@pytest.mark.parametrize("role", [*PEOPLE, "agent-default"])
def test_every_route_answers_as_documented(server: Server, agent_token: str, role: str, tmp_path: Path):
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    token = agent_token if role == "agent-default" else TOKENS[role]
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", settings),
            *("run", f"{server.url}/api/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS)),
            *("--max-examples", "5", "--seed", "7", "--workers", "1", "--no-color", "--continue-on-failure"),
        ],
        cwd=tmp_path,  # where it keeps what it has found
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]
