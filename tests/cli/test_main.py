"""The program as a whole: entry, options, formats, exit statuses, mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest

from dbward import VERSION
from dbward.cli.asking import is_production, surely_reads
from dbward.cli.main import COMMANDS, load
from dbward.cli.times import Moment, shown
from tests.cli.conftest import Person
from tests.support.processes import DBWARD


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_version(offline: Person, option: str) -> None:
    assert offline(option).out == f"dbward {VERSION}\n"
    assert offline("--format", "json", option).out == f"dbward {VERSION}\n"


def imported(*argv: str, **env: str) -> tuple[set[str], str]:
    """The modules that a run of the program has imported by its end, and what it printed."""
    code = "import sys; from dbward.cli.main import run\ntry: run()\nfinally: print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return set(ran.stderr.splitlines()[-1].split()), ran.stdout


def of_ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] in {"dbward", "tasks", "web", "worker"}}


HEAVY = {"anyio", "celery", "cryptography", "flask", "httpx2", "kombu", "pydantic", "rich", "sqlalchemy", "sqlglot"}


def test_what_the_version_imports() -> None:
    modules, out = imported("--version")
    assert out == f"dbward {VERSION}\n"
    assert of_ours(modules) == {"dbward", "dbward.cli", "dbward.cli.main"}
    assert modules & (HEAVY | {"click", "dataclasses", "json", "logging"}) == set()


def test_what_the_help_imports() -> None:
    modules, out = imported("--help")
    assert all(name in out for name in COMMANDS)
    assert modules & HEAVY == set()
    assert {
        name for name in of_ours(modules) if name.rpartition(".")[2] in {entry[0] for entry in COMMANDS.values()}
    } == set()


def test_what_asking_the_server_imports(free_port: int, tmp_path: Path) -> None:
    env = {"DBWARD_SERVER_URL": f"http://127.0.0.1:{free_port}", "DBWARD_TOKEN": "dbw_x", "HOME": str(tmp_path)}
    modules, _ = imported("request", "list", "--format", "quiet", **env)
    assert "dbward.client.http" in modules
    assert modules & (HEAVY - {"httpx2", "anyio"}) == set()


def every_command() -> list[tuple[str, ...]]:
    def below(path: tuple[str, ...], command: click.Command) -> list[tuple[str, ...]]:
        subs = command.commands if isinstance(command, click.Group) else {}
        return [path, *(each for name, sub in subs.items() for each in below((*path, name), sub))]

    found = []
    for name in COMMANDS:
        command = load(name)
        assert command is not None
        found += below((name,), command)
    return found


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_has_help(offline: Person, path: tuple[str, ...]) -> None:
    ran = offline("--format", "json", *path, "--help")
    assert ran.status == 0
    assert ran.out.startswith(f"Usage: dbward {' '.join(path)}")
    assert ran.err == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["whoami", "--nonsense"],
        ["request", "list", "--limit", "0"],
        ["request", "show"],
        ["execute"],
        ["execute", "SELECT 1", "-f", "x"],
        ["execute", "SELECT 1", "--allow-ddl"],
        ["request", "result", "abcd", "--list", "--execution", "x"],
        ["request", "result", "abcd", "--limit", "5"],
        ["audit", "--since", "yesterday"],
        ["audit", "--since", "2026-01-01T00:00:00"],
    ],
)
def test_usage_mistakes(offline: Person, argv: list[str]) -> None:
    ran = offline(*argv)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("Error: ")
    for where in (["--format", "json", *argv], [*argv, "--format=json"]):
        ran = offline(*where)
        assert ran.json["error"]["code"] == "usage"
        assert ran.status == 2
        assert ran.err.startswith("Error: ")
    assert offline(*argv, "--format", "quiet").err == ""


def test_what_was_meant_is_guessed(offline: Person) -> None:
    assert "'request'" in offline("reqest").err
    assert "Did you mean 'list'?" in offline("request", "lst").err


def test_no_command_shows_the_help(offline: Person) -> None:
    ran = offline()
    assert ran.status == 2
    assert "Commands:" in ran.out + ran.err


def test_no_configuration(offline: Person) -> None:
    ran = offline("whoami")
    assert (ran.status, ran.out) == (1, "")
    assert "DBWARD_SERVER_URL" in ran.err
    assert offline("whoami", "--format", "json").json["error"]["code"] == "config_error"


def test_no_token(offline: Person) -> None:
    ran = offline("whoami", "--format", "json", DBWARD_SERVER_URL="http://localhost:1")
    assert ran.json["error"]["code"] == "auth_error"


def test_nobody_answers(offline: Person, free_port: int) -> None:
    env = {"DBWARD_SERVER_URL": f"http://127.0.0.1:{free_port}", "DBWARD_TOKEN": "dbw_x"}
    ran = offline("whoami", "--format", "json", **env)
    assert ran.json["error"]["code"] == "network_error"
    assert ran.status == 1


def test_config_mistakes_come_together(offline: Person) -> None:
    (offline.cwd / "dbward.toml").write_text('defautl_database = "x"\n[server]\nurl = 5\n')
    ran = offline("whoami")
    assert ran.status == 1
    assert "server.url: must be a text" in ran.err
    assert "did you mean `default_database`" in ran.err


def test_plain_http_in_public_is_refused_for_every_command(offline: Person) -> None:
    env = {"DBWARD_SERVER_URL": "http://[2001:db8::1]", "DBWARD_TOKEN": "dbw_x", "DBWARD_DATABASE": "app"}
    for argv in (["whoami"], ["request", "list"], ["agents"], ["databases"], ["audit"], ["execute", "SELECT 1"]):
        assert offline(*argv, "--format", "json", **env).json["error"]["code"] == "transport.insecure"


def test_warnings_are_in_the_envelope_and_not_on_a_quiet_stderr(offline: Person, free_port: int) -> None:
    (offline.cwd / "dbward.toml").write_text(f'[server]\nurl = "http://localhost:{free_port}"\ntoken = "dbw_x"\n')
    quiet = offline("whoami", "--format", "quiet")
    assert quiet.err == ""
    assert "token" in json.loads(quiet.out)["warnings"][0]
    assert offline("whoami").err.startswith("⚠ ")


@pytest.mark.parametrize(
    ("sql", "sure"),
    [
        ("SELECT 1", True),
        ("  -- hello\n/* x */ (select 1)", True),
        ("WITH x AS (SELECT 1) SELECT * FROM x", True),
        ("SELECT count(*), max (a) FROM t WHERE (a = 1) AND b IN (1, 2)", True),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", False),
        ("SELECT 1; DROP TABLE t", False),
        ("SELECT * INTO t2 FROM t", False),
        ("EXPLAIN ANALYZE UPDATE t SET a = 1", False),
        ("UPDATE t SET a = 1", False),
        ("/*! DELETE FROM t */", False),
        ("SELECT setval('s', 1)", False),
        ("SELECT setval/**/('s', 1)", False),
        ("SELECT setval -- in\n('s', 1)", False),
        ("SELECT pg_catalog . setval ('s', 1)", False),
        ('SELECT "count"(1)', False),
        ("SELECT f$(1)", False),
        ("", False),
    ],
)
def test_what_is_seen_to_change_nothing(sql: str, sure: bool) -> None:
    assert surely_reads(sql) is sure


def test_what_counts_as_production() -> None:
    assert [name for name in ("production", "eu-Prod", "development", "staging") if is_production(name)] == [
        "production",
        "eu-Prod",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-01", "2026-05-01T00:00:00Z"),
        ("2026-05-01T12:00:00+02:00", "2026-05-01T10:00:00Z"),
        ("2026-05-01T12:00:00Z", "2026-05-01T12:00:00Z"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    assert Moment().convert(text, None, None) == expected


def test_the_end_of_a_day_and_ago() -> None:
    assert Moment(end=True).convert("2026-05-01", None, None) == "2026-05-01T23:59:59.999999Z"
    ago = datetime.fromisoformat(Moment().convert("2h", None, None))
    assert timedelta(hours=2) <= datetime.now(UTC) - ago < timedelta(hours=3)


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "99999999d", "2026-05-01T12:00:00", "-1d"])
def test_no_moment(text: str) -> None:
    with pytest.raises(click.UsageError):
        Moment().convert(text, None, None)


def test_a_time_of_an_answer() -> None:
    assert shown(None) is None
    assert shown("not a time") == "not a time"
    made: Any = shown("2026-05-01T12:00:00Z")
    assert len(made) == 19


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*DBWARD, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "Error: cannot write: No space left on device\n"


def test_a_terminal_that_knows_few_characters(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run([*DBWARD, "whoami"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "which server?" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_defect_still_answers_programs(offline: Person) -> None:
    """A server that answers something else than agreed: programs get their envelope, people the traceback."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"unexpected": True}))
    person = Person(offline.cwd, {**offline.variables, "DBWARD_SERVER_URL": "http://x", "DBWARD_TOKEN": "t"}, transport)
    assert person("whoami", "--format", "json").json["error"]["code"] == "internal_error"
    with pytest.raises(KeyError):
        person("whoami")


@pytest.mark.parametrize(
    ("argv", "extra"),
    [(["server", "start", "--config", "x.toml"], "server"), (["--format", "json", "agent"], "agent")],
)
def test_a_program_without_the_libraries_of_a_server_or_an_agent(argv: list[str], extra: str, tmp_path: Path) -> None:
    program = "import sys; sys.modules |= {'sqlglot': None, 'sqlalchemy': None}; from dbward.cli.main import run; run()"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", program, *argv], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "which is not installed" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert f"pip install 'dbward[{extra}]'" in ran.stdout + ran.stderr
