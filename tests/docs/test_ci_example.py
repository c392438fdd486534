"""deploy/examples/github-actions.yaml is a workflow that GitHub takes, and its steps do what they should."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.docs.conftest import TOKENS, Installation
from tests.support.actions import Runner
from tests.support.engine import TOOLS
from tests.support.pages import ROOT
from tests.support.processes import DBWARD, call

pytestmark = pytest.mark.e2e

EXAMPLE = ROOT / "deploy/examples/github-actions.yaml"
WHO_PINS = "rules: {unpinned-uses: {config: {policies: {'actions/*': ref-pin}}}}"
"""GitHub's own actions by their version: the guide leaves it to the reader to pin commits."""
MIGRATION = """-- migrate:up
CREATE TABLE invoices (id bigint PRIMARY KEY, total integer NOT NULL);

-- migrate:down
DROP TABLE invoices;
"""
LAST = "Submit, wait for the approval, apply"


def test_it_is_a_workflow(tmp_path: Path) -> None:
    linted = subprocess.run(
        [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", EXAMPLE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout
    (tmp_path / "zizmor.yml").write_text(WHO_PINS)
    audited = subprocess.run(
        [TOOLS / "zizmor", "--offline", "--config", tmp_path / "zizmor.yml", "--pedantic", EXAMPLE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert audited.returncode == 0, audited.stdout


class Repository:
    """The repository of a project with migrations, and the workflow in it."""

    def __init__(self, installation: Installation, home: Path, example: str) -> None:
        self.installation = installation
        self.home = home
        self.work = home / "work"
        self.workflow = home / "migrations.yaml"
        self.workflow.write_text(example)
        self.migrations = home / "repository"
        self.migrations.mkdir()
        for name, script in {
            "dbward": f'exec {DBWARD[0]} {DBWARD[1]} "{DBWARD[2]}" "$@"',
            "pip": f'echo "$@" > {home / "installed"}',  # this very program is what is tested
        }.items():
            program = home / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    def commit(self, name: str, text: str) -> None:
        (self.migrations / name).write_text(text)

    def run(self, event: str, *, run_id: str | None = None) -> Runner:
        """A runner that has the workflow, ready for one of its jobs."""
        contexts = {
            "github.event_name": event,
            "github.run_id": run_id or secrets.token_hex(8),
            "github.sha": secrets.token_hex(20),
            "github.repository": "example/app",
            "vars.DBWARD_SERVER_URL": self.installation.server.url,
            "vars.DBWARD_VERSION": "0.1.0",
        }
        if event != "pull_request":
            contexts["secrets.DBWARD_TOKEN"] = TOKENS["ci"]
        env = {
            "PATH": f"{self.home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
        }
        return Runner(
            self.workflow,
            self.work,
            contexts,
            env,
            {"actions/checkout": lambda _: self.check_out(), "actions/setup-python": lambda _: None},
        )

    def check_out(self) -> None:
        target = self.work / "migrations"
        target.mkdir(parents=True, exist_ok=True)
        for file in self.migrations.iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    def api(self, who: str, method: str, path: str, body: Any = None) -> Any:
        status, answer = call(method, f"{self.installation.server.url}{path}", TOKENS[who], body)
        assert status == 200, answer
        return answer

    def waiting(self) -> str:
        """The id of the request that waits, once there is one."""

        def found() -> str:
            listed = self.api("olga", "GET", "/api/requests?status=pending")["requests"]
            return str(listed[0]["id"]) if listed else ""

        return self.installation.farm.until(found, "a request of the pipeline waits")

    @contextmanager
    def decided(self, decision: str) -> Iterator[None]:
        """Bob decides about what comes to wait meanwhile."""

        def decide() -> None:
            self.api("bob", "POST", f"/api/requests/{self.waiting()}/{decision}", {})

        with ThreadPoolExecutor(1) as bob:
            decided = bob.submit(decide)
            yield
            decided.result()

    def tables(self) -> set[str]:
        with psycopg.connect(self.installation.databases["production"]) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {str(row[0]) for row in rows}


@pytest.fixture
def repository(installation: Installation, tmp_path: Path) -> Repository:
    installation.reset()
    return Repository(installation, tmp_path, EXAMPLE.read_text())


def test_a_pull_request_is_checked_without_a_secret(repository: Repository) -> None:
    repository.commit("20261126090000_invoices.sql", MIGRATION)
    good = repository.run("pull_request")
    assert good.job("check"), good.ran
    assert (repository.home / "installed").read_text() == "install dbward==0.1.0\n"
    assert not repository.run("pull_request").job("apply")

    repository.commit("20261126090100_broken.sql", "-- migrate:up\n")
    bad = repository.run("pull_request")
    assert not bad.job("check")
    assert "20261126090100_broken.sql:1: nothing follows `-- migrate:up`" in bad.ran[-1].output


def test_a_push_is_applied_once_it_is_approved(repository: Repository) -> None:
    repository.commit("20261126090000_invoices.sql", MIGRATION)
    push = repository.run("push")
    with repository.decided("approve"):
        assert push.job("apply"), push.ran
    assert "invoices" in repository.tables()
    again = repository.run("push")
    assert again.job("apply"), again.ran
    assert repository.api("olga", "GET", "/api/requests?status=pending")["requests"] == []


def test_a_push_that_is_rejected_is_red(repository: Repository) -> None:
    repository.commit("20261126090000_invoices.sql", MIGRATION)
    push = repository.run("push")
    with repository.decided("reject"):
        assert not push.job("apply")
    assert [step.status for step in push.ran if step.name == LAST] == [1]
    assert "rejected" in json.dumps([step.output for step in push.ran])
    assert "invoices" not in repository.tables()


def test_a_job_that_waited_too_long_finds_its_request_again(repository: Repository) -> None:
    repository.workflow.write_text(EXAMPLE.read_text().replace("--timeout 3600", "--timeout 1"))
    repository.commit("20261126090000_invoices.sql", MIGRATION)
    late = repository.run("push", run_id="77")
    assert not late.job("apply")
    assert [step.status for step in late.ran if step.name == LAST] == [124]
    repository.api("bob", "POST", f"/api/requests/{repository.waiting()}/approve", {})
    repository.workflow.write_text(EXAMPLE.read_text())
    again = repository.run("push", run_id="77")
    assert again.job("apply"), again.ran
    assert "invoices" in repository.tables()


def test_a_migration_that_fails_is_red_and_says_why(repository: Repository) -> None:
    repository.commit("20261126090000_again.sql", MIGRATION.replace("invoices", "plans"))
    push = repository.run("push")
    with repository.decided("approve"):
        assert not push.job("apply")
    (failed,) = [step for step in push.ran if step.name == LAST]
    assert failed.status == 1
    assert 'relation "plans" already exists' in failed.output
    assert push.ran[-1].name == "Show what is applied"
