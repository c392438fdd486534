"""Every example of the documentation is held to the program: what is typed is run, what is configured is loaded.

What another test runs, or what cannot be run here, is in `ELSEWHERE`. A block that is in neither place fails.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from dbward.settings.agent import load_agent
from dbward.settings.client import load_client
from dbward.settings.server import load_server
from tests.docs.conftest import TOKENS, Follower, Installation
from tests.support.pages import PAGES, ROOT, Block, blocks, transcript
from tests.support.processes import call
from tests.support.s3 import MINIMAL

pytestmark = pytest.mark.e2e

TYPED: Final = frozenset({"console", "sh", "bash"})
DRAWN: Final = frozenset({"text"})
"""Pictures and the like, in which nothing is to be typed."""

ELSEWHERE: Final = {
    # (page, how the block begins; "": all of its blocks) → the test that runs it, or why nothing does.
    ("CONTRIBUTING.md", "make setup"): "what the build server runs; test_docs.py knows the targets",
    ("README.md", "git clone"): "tests/e2e/test_demo.py",
    ("README.md", "python3 -m venv"): "tests/docs/test_readme.py",
    ("README.md", "dbward execute"): "tests/docs/test_readme.py",
    ("README.md", "make test"): "this is make test",
    ("bench/README.md", ""): "takes ten minutes, and is run before each release",
    ("docs/deployment/agent.md", ""): "tests/deploy/test_hosts.py",
    ("docs/deployment/backup.md", "dbward server restore"): "tests/e2e/test_backup.py",
    ("docs/deployment/backup.md", "dbs:"): "tests/e2e/test_litestream.py",
    ("docs/deployment/backup.md", "tar -xzf"): "tests/e2e/test_litestream.py",
    ("docs/deployment/docker.md", ""): "tests/deploy/test_compose.py",
    ("docs/deployment/ecs.md", ""): "tests/e2e/test_ecs_guide.py",
    ("docs/deployment/helm.md", "kubectl create"): "needs a cluster; test_kubernetes.py renders the chart",
    ("docs/deployment/helm.md", "openssl rand"): "needs a cluster; test_kubernetes.py renders the chart",
    ("docs/deployment/helm.md", "server:"): "tests/deploy/test_kubernetes.py",
    ("docs/deployment/helm.md", "networkPolicy:"): "tests/deploy/test_kubernetes.py",
    ("docs/deployment/kubernetes.md", ""): "needs a cluster; test_kubernetes.py checks the manifests",
    ("docs/deployment/server.md", ""): "tests/deploy/test_hosts.py",
    ("docs/deployment/tls.md", ""): "tests/deploy/test_tls.py",
    ("docs/deployment/upgrading.md", "cp dbward.db.before"): "tests/store/test_migrations.py",
    ("docs/flower.md", ""): "tests/broker/test_workers.py",
    ("docs/guides/doctor.md", ""): "tests/cli/test_doctor.py",
    ("docs/guides/single-sign-on.md", "$ dbward login"): "tests/e2e/test_single_sign_on.py",
    ("docs/quickstart.md", ""): "tests/e2e/test_quickstart.py",
    ("docs/reference/metrics.md", ""): "tests/docs/test_metrics.py",
}


BLOCKS: Final = [block for page in PAGES for block in blocks(page)]


def row_of(block: Block, table: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    return next((row for row in table if row[0] == block.page and block.first.startswith(row[1])), None)


HERE: Final = [block for block in BLOCKS if row_of(block, ELSEWHERE) is None]


def of(*languages: str) -> list[Block]:
    return [block for block in HERE if block.language in languages]


# --- all of them ------------------------------------------------------------------------------------------------------


def test_every_block_is_accounted_for() -> None:
    known = TYPED | DRAWN | {"toml"}
    strange = [str(b) for b in HERE if b.language not in known and row_of(b, CHECKS) is None]
    assert strange == [], "run or compare them here, or say in ELSEWHERE what else does"


def test_no_row_is_for_a_block_that_is_gone() -> None:
    used = {row_of(block, table) for table in (ELSEWHERE, CHECKS) for block in BLOCKS}
    assert [row for row in (*ELSEWHERE, *CHECKS) if row not in used] == []


@pytest.mark.parametrize(("page", "what"), sorted({(page, what) for (page, _), what in ELSEWHERE.items()}))
def test_the_other_test_is_about_the_page(page: str, what: str) -> None:
    if what.startswith("tests/"):
        text = (ROOT / what).read_text()
        assert Path(page).name in text or f'"{Path(page).stem}"' in text
    else:
        assert " " in what, "a reason is a sentence"


def test_nothing_is_typed_in_a_picture() -> None:
    assert [str(b) for b in of(*DRAWN) if re.search(r"^\$? *(dbward|curl|make|pip|git) ", b.text, re.MULTILINE)] == []


# --- what is typed ----------------------------------------------------------------------------------------------------


PUT_IN: Final[dict[str, Callable[[Installation], dict[str, str]]]] = {
    # What the reader of a page is asked to put in by themselves.
    "docs/broker.md": lambda it: {"http://server:3000": it.server.url, "dbw_…": TOKENS["olga"]},
}
WHO: Final = {"docs/reference/audit-log.md": "olga"}
"""Whose page it is, where that is not anybody's who may submit."""


@pytest.mark.parametrize("page", list(dict.fromkeys(b.page for b in of(*TYPED))))
def test_what_is_typed_does_what_is_shown(page: str, installation: Installation, tmp_path: Path) -> None:
    installation.reset()
    put_in = PUT_IN.get(page, lambda _: {})(installation)
    follower = Follower(installation, tmp_path, WHO.get(page, "alice"), put_in)
    for block in of(*TYPED):
        if block.page == page and block.language == "console":
            for step in transcript(block.text):
                follower.does(step)
        elif block.page == page:
            follower.runs(block.text)


# --- what is configured -----------------------------------------------------------------------------------------------

HEAD: Final = """
[[databases]]
name = "app"
environments = ["development", "production"]

[[databases]]
name = "billing"
environments = ["production"]
"""
VARIABLE: Final = re.compile(r"\$\{([A-Z_]+)\}")
VALUES: Final = {
    "STATE_URL": "postgresql://dbward:x@db.internal/dbward",
    "KEY_SEED": "0" * 64,
}


@pytest.mark.parametrize("block", of("toml"), ids=lambda b: f"{b.page}:{b.line}")
def test_what_is_configured_is_taken(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    env = {name: VALUES.get(name, str(tmp_path)) for name in VARIABLE.findall(block.text)}
    found = tomllib.loads(block.text)
    server = found.get("server", {})
    warnings: tuple[str, ...]
    if "agent_token" in server:
        path.write_text(block.text)
        warnings = load_agent(path, env).warnings
    elif "url" in server or "default_database" in found or isinstance(found.get("databases"), dict):
        (tmp_path / "dbward.toml").write_text(block.text)
        warnings = load_client(env, tmp_path).warnings
    else:
        state_dir = "" if "state_dir" in found else f"state_dir = {json.dumps(str(tmp_path))}\n"
        path.write_text(f"{state_dir}{block.text}{'' if 'databases' in found else HEAD}")
        settings = load_server(path, env)
        assert settings.policy.targets
        warnings = settings.warnings
    assert not [warning for warning in warnings if "no effect" in warning or "not in effect" in warning]


# --- the rest ---------------------------------------------------------------------------------------------------------


def a_request(block: Block, it: Installation) -> None:
    status, answer = call("POST", f"{it.server.url}/api/requests", TOKENS["alice"], json.loads(block.text))
    assert (status, answer["status"]) == (201, "pending")


def a_result(block: Block, it: Installation) -> None:
    body = {"database": "app", "environment": "development", "detail": "SELECT id FROM plans"}
    _, made = call("POST", f"{it.server.url}/api/requests", TOKENS["alice"], body)
    url = f"{it.server.url}/api/requests/{made['id']}/result/stream"
    status, answer = call("GET", url, TOKENS["alice"])
    assert (status, kind_of(answer)) == (200, kind_of(json.loads(block.text)))


def kind_of(value: Any) -> Any:
    """The names and types in an answer, of lists those of the first entry."""
    if isinstance(value, dict):
        return {name: kind_of(inner) for name, inner in value.items()}
    return [kind_of(inner) for inner in value[:1]] if isinstance(value, list) else type(value)


def a_policy(block: Block, _: Installation) -> None:
    """The one that the tests of results in S3 let no more through than."""
    policy = json.loads(block.text)
    assert {s["Effect"] for s in policy["Statement"]} == {"Allow"}
    actions = [a for s in policy["Statement"] for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])]
    assert sorted(actions) == sorted(f"s3:{action}" for action in MINIMAL)


def a_lifecycle(block: Block, _: Installation) -> None:
    """As the library that talks to S3 checks it before it is sent."""
    service = Loader().load_service_model("s3", "service-2")
    shape = ServiceModel(service).shape_for("BucketLifecycleConfiguration")
    assert ParamValidator().validate(json.loads(block.text), shape).generate_report() == ""


def a_login(block: Block, it: Installation) -> None:
    with psycopg.connect(it.databases["development"]) as connection:
        connection.execute(block.text)
        connection.rollback()


CHECKS: Final[dict[tuple[str, str], Callable[[Block, Installation], None]]] = {
    # What is neither typed nor a configuration of ours, and what it is compared with.
    ("docs/guides/results-in-s3.md", "{"): lambda b, it: (a_lifecycle if "Rules" in b.text else a_policy)(b, it),
    ("docs/reference/http-api.md", '{"database"'): a_request,
    ("docs/reference/http-api.md", '{"_dbward_result"'): a_result,
    ("docs/security/hardening.md", "CREATE ROLE"): a_login,
}


@pytest.mark.parametrize(
    "block", [b for b in HERE if row_of(b, CHECKS) is not None], ids=lambda b: f"{b.page}:{b.line}"
)
def test_what_is_written_is_right(block: Block, installation: Installation) -> None:
    row = row_of(block, CHECKS)
    assert row is not None
    CHECKS[row](block, installation)
