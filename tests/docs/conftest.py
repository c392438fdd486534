"""The installation that the documentation's examples are about, running, and people who follow its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
import pytest

from dbward import ids
from tests.support import services
from tests.support.pages import Reader, Step, blocks
from tests.support.processes import DBWARD, Farm, Server, call

TOKENS: Final = {name: ids.new_token() for name in ("alice", "bob", "olga", "ci")}
CONFIG: Final = """
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

[[sql_review]]
environment = "development"
drop_table = "warn"

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

[[auth.users]]
id = "ci"
roles = ["pipeline"]
token = "${T_CI}"
"""
PIPELINE: Final = next(block.text for block in blocks("docs/guides/ci-cd.md") if block.language == "toml")
"""The role that the guide to pipelines gives to theirs."""
TABLES: Final = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE TABLE plans (id integer PRIMARY KEY, price integer NOT NULL);
INSERT INTO plans SELECT n, 10 * n FROM generate_series(1, 5) n;
CREATE TABLE users (id integer PRIMARY KEY, email text NOT NULL, plan text NOT NULL);
INSERT INTO users SELECT n, 'user' || n || '@example.com', 'pro' FROM generate_series(1, 100) n;
CREATE TABLE jobs (id integer PRIMARY KEY, state text NOT NULL);
INSERT INTO jobs SELECT n, 'blocked' FROM generate_series(1, 100) n;
ANALYZE;
"""
_OPEN: Final = ("pending", "approved", "dispatched", "running")


@dataclass(slots=True)
class Installation:
    """A server, an agent, and the database `app` of PostgreSQL in two environments."""

    farm: Farm
    server: Server
    databases: Mapping[str, str]

    def reset(self) -> None:
        """The tables as they were, and nothing that waits for anybody."""
        for url in self.databases.values():
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(TABLES)
        for status in _OPEN:
            _, listed = call("GET", f"{self.server.url}/api/requests?status={status}", TOKENS["olga"])
            for request in listed["requests"]:
                url = f"{self.server.url}/api/requests/{request['id']}/cancel"
                call("POST", url, TOKENS["olga"], {"reason": "of another page"})


@dataclass(slots=True)
class Follower:
    """Somebody (`person`) who follows one page, block by block, in a directory of their own.

    `put_in` is what a reader of the page puts in by themselves: text of the page, and what for.
    """

    installation: Installation
    home: Path
    person: str
    put_in: Mapping[str, str] = field(default_factory=dict)
    reader: Reader = field(default_factory=Reader)
    _status: int = 0

    def __post_init__(self) -> None:
        (self.home / "bin").mkdir()
        program = self.home / "bin" / "dbward"
        program.write_text(f'#!/bin/sh\nexec {DBWARD[0]} {DBWARD[1]} "{DBWARD[2]}" "$@"\n')
        program.chmod(0o755)
        (self.home / "work").mkdir()
        server = self.installation.server
        shutil.copy(server.config, self.home / "work" / "server.toml")
        shutil.copy(server.state_dir / "audit-keys.json", self.home / "work")

    def does(self, step: Step) -> None:
        """One command of a transcript. It shows what the page shows; without that it must succeed."""
        written = self._run(step.command, step.person)
        said = f"{step.person}$ {step.command}\n{written}(exit status {self._status})"
        if step.shown:
            assert self.reader.sees(step.shown, written), f"{said}\n--- but the page shows:\n" + "\n".join(step.shown)
        else:
            assert self._status == 0, said

    def runs(self, script: str) -> str:
        """A block of commands, none of which may fail; all they write."""
        written = self._run(f"set -e\n{script}", "")
        assert self._status == 0, f"{script}\n{written}(exit status {self._status})"
        assert '"error":"' not in written, f"{script}\n{written}"  # an answer to curl, which ends with status 0
        return written

    def _run(self, command: str, person: str) -> str:
        """In a shell that goes on where the last one was: its directory, exported variables and exit status.

        With `person` "" also as whoever it was.
        """
        command = self.reader.types(command)
        for text, value in self.put_in.items():
            command = command.replace(text, value)
        kept = self.home / "kept"
        before = f". {kept}\n" if kept.exists() else ""
        who = "" if before and not person else f"export DBWARD_TOKEN={self._token(person or self.person)}\n"
        keep = f'export -p > {kept}; printf "cd %q" "$PWD" >> {kept}'
        script = f"{before}{who}trap 'status=$?; {keep}; exit $status' EXIT\n(exit {self._status})\n{command}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.home / "work",
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        self._status = done.returncode
        return done.stdout

    def _environment(self) -> dict[str, str]:
        scripts = Path(sys.executable).parent
        return {
            "PATH": f"{self.home / 'bin'}:{scripts}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "DBWARD_SERVER_URL": self.installation.server.url,
            "DBWARD_DATABASE": "app",
            "DBWARD_YES": "1",  # readers are on a terminal, and say yes there
        }

    def _token(self, person: str) -> str:
        return self.installation.server.admin_token if person == "admin" else TOKENS[person]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    farm = Farm(tmp_path_factory.mktemp("installation"))
    with ExitStack() as opened:
        opened.callback(farm.close)
        databases = {env: opened.enter_context(services.fresh_postgres()) for env in ("development", "production")}
        server = farm.server(
            config=f"{CONFIG}\n{PIPELINE}", env={f"T_{name.upper()}": token for name, token in TOKENS.items()}
        )
        made = Installation(farm, server, databases)
        made.reset()
        farm.agent(server, {("app", environment): url for environment, url in databases.items()})
        yield made
